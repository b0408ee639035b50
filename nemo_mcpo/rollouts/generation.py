# SPDX-License-Identifier: Apache-2.0
"""Batched generation from a Hugging Face directory with transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from nemo_mcpo.data.tokenization import ChatTokenizer, load_chat_tokenizer
from nemo_mcpo.models.huggingface.generation_settings import end_tokens
from nemo_mcpo.models.huggingface.loading import load_model
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.platform.out_of_memory import memory_of


@dataclass(frozen=True, slots=True)
class Policy:
    """A model and its tokenizer, ready to generate; weights on ``model.device``.

    ``ends`` are the tokens at which an answer stops: the end of a turn, and all others that its files declare.
    """

    model: PreTrainedModel
    chat: ChatTokenizer
    ends: tuple[int, ...]


class Answer(NamedTuple):
    """One answer: ``tokens`` as drawn, without the end token; ``finished`` if that was the end of the turn."""

    text: str
    finished: bool
    tokens: tuple[int, ...]


def load_policy(directory: str | Path) -> Policy:
    """Load safetensors weights and tokenizer of a local directory: in float32 on a CPU, as stored on a GPU.

    Raises:
        CheckpointError, DataError: a file is missing or damaged, or transformers refuses it.
    """
    device = local_device()
    chat = load_chat_tokenizer(str(directory))
    ends = end_tokens(Path(directory), chat.tokenizer.eos_token_id, chat.end_of_turn)
    dtype = torch.float32 if device.type == "cpu" else "auto"
    model = load_model(AutoModelForCausalLM, directory, where="the policy", dtype=dtype)
    return Policy(model.to(device), chat, tuple(ends))


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of ``lengths`` in batches, shortest first, to minimize padding; equal lengths keep order."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@memory_of("generating answers")
@torch.inference_mode()
def generate_batch(
    policy: Policy, prompts: Sequence[Sequence[int]], *, temperature: float, max_tokens: int, top_p: float, seed: int
) -> list[Answer]:
    """Generate one answer per prompt; ``temperature`` 0 is greedy. The global random state is preserved.

    Only these arguments decide how answers are sampled; of the directory's ``generation_config.json``, only the end
    tokens are used.
    """
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left, so that all answers start in the same column
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    settings = GenerationConfig(
        max_new_tokens=max_tokens,
        eos_token_id=list(policy.ends),
        pad_token_id=policy.chat.end_of_turn,
        **({"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p} if temperature > 0 else {}),
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        generated = policy.model.generate(
            ids.to(policy.model.device), attention_mask=mask.to(policy.model.device), generation_config=settings
        )
    return [_answer(policy, tokens) for tokens in generated[:, longest:].tolist()]


def _answer(policy: Policy, tokens: list[int]) -> Answer:
    """The tokens before the first end token; only the end-of-turn token marks the answer as finished."""
    length = next((place for place, token in enumerate(tokens) if token in policy.ends), len(tokens))
    finished = tokens[length : length + 1] == [policy.chat.end_of_turn]
    own = tokens[:length]
    text = policy.chat.tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Answer(text.strip(), finished, tuple(own))
