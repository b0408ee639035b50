# SPDX-License-Identifier: Apache-2.0
"""How a chat template writes an assistant turn: the token that ends it, and the text between prompt and response."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from nemo_mcpo.data.chat_template import render, template_text
from nemo_mcpo.data.encoding import encode_texts, special_tokens
from nemo_mcpo.data.thoughts import Tags, is_open, tags_of
from nemo_mcpo.errors import DataError
from nemo_mcpo.records import Message

_SENTINEL = "Sentinel"


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """How a template writes an assistant turn.

    Attributes:
        end: the token that ends the turn.
        head: tokens before every response, up to the last special token (such as gpt-oss's final channel).
        lead: text between ``head`` and the response, such as Llama 2's space.
        tags: the tags around a thought; None if the template has no thoughts.
        empty_thought: text before a response without a thought if the prompt opens one; None = unknown.
    """

    end: int
    head: tuple[int, ...]
    lead: str
    tags: Tags | None
    empty_thought: str | None


def read_assistant_turn(tokenizer: PreTrainedTokenizerFast, directory: str) -> AssistantTurn:
    """Return how the tokenizer's template writes an assistant turn, found by rendering a known response.

    Raises:
        RefusedByTemplate: the template cannot be rendered.
        DataError: the token that ends a turn cannot be determined.
    """
    question = [Message("user", "Question")]
    prompt = render(tokenizer, question, add_generation_prompt=True)
    whole = render(tokenizer, [*question, Message("assistant", _SENTINEL)], add_generation_prompt=False)
    before, found, after = whole.rpartition(_SENTINEL)
    end = _first_special(tokenizer, after) if found else None
    if end is None:
        end = tokenizer.eos_token_id
    if end is None:
        fix = "set eos_token in tokenizer_config.json, or end the assistant turn with a special token in the template"
        raise DataError("cannot tell which token ends a turn", where=directory, fix=fix)
    between = before.removeprefix(prompt) if found and before.startswith(prompt) else ""
    tags = tags_of(template_text(tokenizer))
    if tags and is_open(tags, prompt):
        return AssistantTurn(end, (), "", tags, between if tags.end in between else None)
    head, lead = _head_and_lead(tokenizer, prompt, between)
    return AssistantTurn(end, head, lead, tags, None)


def _first_special(tokenizer: PreTrainedTokenizerFast, text: str) -> int | None:
    ids = encode_texts(tokenizer, [text.lstrip()], special_text=False)[0]
    return ids[0] if ids and ids[0] in special_tokens(tokenizer).values() else None


def _head_and_lead(tokenizer: PreTrainedTokenizerFast, prompt: str, between: str) -> tuple[tuple[int, ...], str]:
    """Return the head and lead that give a response, encoded alone, the same tokens as in the whole text.

    They depend on the tokenizer: SentencePiece prepends a space to every text, byte-level BPE does not.
    """
    inside = [token for token in special_tokens(tokenizer) if token in between]
    border = max((between.rfind(token) + len(token) for token in inside), default=0)
    lead = between[border:]
    prompt_ids, head_ids, whole_ids = encode_texts(
        tokenizer, [prompt, between[:border], prompt + between + _SENTINEL], special_text=False
    )
    for candidate in (lead, lead.lstrip()):
        if prompt_ids + head_ids + encode_texts(tokenizer, [candidate + _SENTINEL], special_text=True)[0] == whole_ids:
            return tuple(head_ids), candidate
    return tuple(head_ids), lead if lead.strip() else ""
