# SPDX-License-Identifier: Apache-2.0
"""transformers' own generation on a Hugging Face directory: a batch of prompts to a batch of answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from nemo_mcpo.data.tokenization import ChatTokenizer, load_chat_tokenizer
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.platform.out_of_memory import memory_of


@dataclass(frozen=True, slots=True)
class Policy:
    """A model and its tokenizer, ready to answer; weights on ``model.device``."""

    model: PreTrainedModel
    chat: ChatTokenizer


class Answer(NamedTuple):
    """``num_tokens`` without the end-of-turn token, which a ``finished`` answer has."""

    text: str
    num_tokens: int
    finished: bool


def load_policy(directory: str | Path) -> Policy:
    """Load safetensors weights and tokenizer of a local directory: float32 on a CPU, as they are stored on a GPU."""
    device = local_device()
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        torch_dtype=torch.float32 if device.type == "cpu" else "auto",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return Policy(model.eval().to(device), load_chat_tokenizer(str(directory)))


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@memory_of("generating answers")
@torch.inference_mode()
def generate_batch(
    policy: Policy, prompts: Sequence[Sequence[int]], *, temperature: float, max_tokens: int, top_p: float, seed: int
) -> list[Answer]:
    """One answer a prompt; ``temperature`` 0 is greedy. The caller's random numbers are left alone."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # on the left, so that every answer starts in the same column
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
    end_of_turn = policy.chat.end_of_turn
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        generated = policy.model.generate(
            ids.to(policy.model.device),
            attention_mask=mask.to(policy.model.device),
            max_new_tokens=max_tokens,
            eos_token_id=end_of_turn,
            pad_token_id=end_of_turn,
            **(sampling if temperature > 0 else {"do_sample": False}),
        )
    return [_answer(policy.chat, tokens, end_of_turn) for tokens in generated[:, longest:].tolist()]


def _answer(chat: ChatTokenizer, tokens: list[int], end_of_turn: int) -> Answer:
    finished = end_of_turn in tokens
    own = tokens[: tokens.index(end_of_turn)] if finished else tokens
    return Answer(chat.tokenizer.decode(own, skip_special_tokens=True).strip(), len(own), finished)
