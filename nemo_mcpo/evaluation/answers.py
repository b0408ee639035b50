# SPDX-License-Identifier: Apache-2.0
"""Answers of a Hugging Face directory to a set of prompts, by transformers' own generation: greedy, or sampled.

The same arguments give the same answers: batches are fixed, and each is seeded by its own number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel

from nemo_mcpo.data.tokenization import ChatTokenizer, encode_prompts, load_chat_tokenizer, render_prompt
from nemo_mcpo.records import Message


@dataclass(frozen=True, slots=True)
class Policy:
    """A model and its tokenizer, ready to answer; weights on ``model.device``."""

    model: PreTrainedModel
    chat: ChatTokenizer


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to answer: ``temperature`` 0 is greedy; ``max_tokens`` and ``batch_size`` count tokens and prompts."""

    temperature: float
    max_tokens: int
    batch_size: int
    seed: int = 0


def load_policy(directory: str | Path) -> Policy:
    """Load safetensors weights (float32) and tokenizer of a local directory, on the GPU when there is one."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Policy(model.eval().to(device), load_chat_tokenizer(str(directory)))


def prompt_tokens(chat: ChatTokenizer, questions: Sequence[str]) -> list[list[int]]:
    """Token ids of single-turn prompts, as training sees them."""
    return encode_prompts(chat, [render_prompt(chat, [Message("user", question)]) for question in questions])


@torch.inference_mode()
def generate_answers(
    policy: Policy, questions: Sequence[str], decoding: Decoding, progress: bool = False
) -> list[str]:
    """One answer a question, in the questions' order; repeat a question for several samples."""
    prompts = prompt_tokens(policy.chat, questions)
    answers = [""] * len(questions)
    own_random_numbers = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    with own_random_numbers, tqdm(total=len(questions), desc="answers", unit="answer", disable=not progress) as bar:
        for number, rows in enumerate(batches_by_length([len(prompt) for prompt in prompts], decoding.batch_size)):
            torch.manual_seed(decoding.seed * 1_000_003 + number)
            texts = _generate(policy, [prompts[row] for row in rows], decoding)
            for row, text in zip(rows, texts, strict=True):
                answers[row] = text
            bar.update(len(rows))
    return answers


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _generate(policy: Policy, prompts: list[list[int]], decoding: Decoding) -> list[str]:
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # on the left, so that every answer starts in the same column
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    generated = policy.model.generate(
        ids.to(policy.model.device),
        attention_mask=mask.to(policy.model.device),
        max_new_tokens=decoding.max_tokens,
        eos_token_id=policy.chat.end_of_turn,
        pad_token_id=policy.chat.end_of_turn,
        **(sampling if decoding.temperature > 0 else {"do_sample": False}),
    )
    return [
        text.strip() for text in policy.chat.tokenizer.batch_decode(generated[:, longest:], skip_special_tokens=True)
    ]
