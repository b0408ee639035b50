# SPDX-License-Identifier: Apache-2.0
"""Prompts and answers as token ids, by the model's own chat template.

    completion = answer's tokens + end-of-turn token            prompt = template(conversation, add_generation_prompt)

The prompt is tokenised once, however many answers it has, and answers are appended as ids: tokens never merge across
the border, so the same prompt tokens serve every answer, and the same answer has the same tokens everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nemo_mcpo.data.formats.rows import hash_files
from nemo_mcpo.errors import DataError
from nemo_mcpo.records import Message

# Values that a template may read. The date: Llama 3.2 writes today's into every prompt, and the same data must give
# the same tokens every day. Thinking: Qwen3 puts an empty thought before an answer that has none, as ours have none.
TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024", "enable_thinking": False}

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_SENTINEL = "Sentinel"
_CHAT_CURE = "use the tokenizer of an instruction-tuned model, or add chat_template.jinja to the directory"


@dataclass(frozen=True, slots=True)
class ChatTokenizer:
    """A tokenizer with what its chat template says about an assistant turn.

    Attributes:
        tokenizer: the model's own, with a Rust backend.
        template: the text of the chat template.
        end_of_turn: the token that ends an assistant turn.
        lead: what the template puts between the generation prompt and an answer, such as Llama 2's space.
    """

    tokenizer: PreTrainedTokenizerFast
    template: str
    end_of_turn: int
    lead: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """The tokens of one prompt and its completions within the limits, and how many were cut."""

    prompt: np.ndarray
    completions: tuple[np.ndarray, ...]
    prompts_cut: int
    answers_cut: int


def load_chat_tokenizer(directory: str) -> ChatTokenizer:
    """Loads the tokenizer of a local model directory and reads the end of a turn off its chat template."""
    if not Path(directory).is_dir():
        cure = "give a model directory with tokenizer.json"
        raise DataError("no such tokenizer directory", where=directory, cure=cure)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = "give a model directory with tokenizer.json and tokenizer_config.json"
        raise DataError("no usable tokenizer", where=directory, got=str(error)[:150], cure=cure) from error
    if not tokenizer.is_fast:
        cure = "save tokenizer.json with save_pretrained of the fast tokenizer"
        raise DataError("the tokenizer has no Rust backend", where=directory, cure=cure)
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template", where=directory, cure=_CHAT_CURE)
    # Limits of their own in tokenizer.json would cut or pad every text before our limits see it.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    try:
        end_of_turn, lead = _read_assistant_turn(tokenizer, directory)
    except jinja2.TemplateError as error:
        got = str(error)[:150]
        raise DataError("the chat template does not render", where=directory, got=got, cure=_CHAT_CURE) from error
    return ChatTokenizer(tokenizer, tokenizer.get_chat_template(), end_of_turn, lead)


def tokenizer_hash(directory: str) -> str:
    """A hash of the tokenizer's files."""
    files = [path for name in _TOKENIZER_FILES if (path := Path(directory) / name).is_file()]
    return hash_files(Path(directory), files)


def render_prompt(chat: ChatTokenizer, prompt: Sequence[Message]) -> str:
    """The prompt as text, up to where the answer begins; raises ``jinja2.TemplateError`` when the template refuses."""
    return _render(chat.tokenizer, [{"role": turn.role, "content": turn.content} for turn in prompt], True)


def encode_prompts(chat: ChatTokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of rendered prompts, on all cores; the template has written the special tokens, BOS among them."""
    return _encode(chat.tokenizer, texts, special_text=False)


def encode_answers(chat: ChatTokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of answers with their end-of-turn token, on all cores.

    An answer that spells out a special token ("</s>") keeps it as plain text: only the template ends a turn.
    """
    encoded = _encode(chat.tokenizer, [chat.lead + text for text in texts], special_text=True)
    for ids in encoded:
        ids.append(chat.end_of_turn)
    return encoded


def truncate(
    prompt: Sequence[int] | np.ndarray,
    completions: Sequence[Sequence[int] | np.ndarray],
    max_prompt_length: int,
    max_length: int,
) -> Truncated:
    """Keeps the end of a prompt and the beginning of every completion, each on its own.

    >>> truncate([1, 2, 3], [[7, 8, 9, 0], [5, 0]], max_prompt_length=2, max_length=5).completions
    (array([7, 8, 9], dtype=int32), array([5, 0], dtype=int32))
    """
    kept = prompt[-max_prompt_length:]
    room = max_length - len(kept)
    return Truncated(
        prompt=np.asarray(kept, dtype=np.int32),
        completions=tuple(np.asarray(completion[:room], dtype=np.int32) for completion in completions),
        prompts_cut=int(len(prompt) > len(kept)),
        answers_cut=sum(len(completion) > room for completion in completions),
    )


def _render(tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
    return tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=add_generation_prompt, **TEMPLATE_ARGUMENTS
    )


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], *, special_text: bool) -> list[list[int]]:
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = special_text
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _read_assistant_turn(tokenizer: PreTrainedTokenizerFast, directory: str) -> tuple[int, str]:
    """The end-of-turn token and the lead, from a conversation whose answer is known."""
    question = [{"role": "user", "content": "Question"}]
    prompt = _render(tokenizer, question, True)
    whole = _render(tokenizer, [*question, {"role": "assistant", "content": _SENTINEL}], False)
    before, found, after = whole.rpartition(_SENTINEL)
    end_of_turn = _first_special(tokenizer, after) if found else None
    if end_of_turn is None:
        end_of_turn = tokenizer.eos_token_id
    if end_of_turn is None:
        cure = "set eos_token in tokenizer_config.json, or end the assistant turn with a special token in the template"
        raise DataError("nothing says which token ends a turn", where=directory, cure=cure)
    between = before.removeprefix(prompt) if found and before.startswith(prompt) else ""
    return end_of_turn, _matching_lead(tokenizer, prompt, between)


def _first_special(tokenizer: PreTrainedTokenizerFast, text: str) -> int | None:
    ids = _encode(tokenizer, [text.lstrip()], special_text=False)[0]
    added = tokenizer.added_tokens_decoder
    return ids[0] if ids and ids[0] in added and added[ids[0]].special else None


def _matching_lead(tokenizer: PreTrainedTokenizerFast, prompt: str, between: str) -> str:
    """The lead with which an answer encoded alone has the tokens that it has in the whole text.

    SentencePiece tokenizers put a space before every text by themselves, byte-level ones do not.
    """
    prompt_ids, whole_ids = _encode(tokenizer, [prompt, prompt + between + _SENTINEL], special_text=False)
    for lead in (between, between.lstrip()):
        if prompt_ids + _encode(tokenizer, [lead + _SENTINEL], special_text=True)[0] == whole_ids:
            return lead
    return ""
