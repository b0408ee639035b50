# SPDX-License-Identifier: Apache-2.0
"""Tokenization of prompts and responses with the model's own chat template.

    prompt = template(conversation, add_generation_prompt)        completion = response + end-of-turn token

A prompt is tokenized once for all its responses, and responses are tokenized separately. Tokens never merge across the
boundary, so all completions share the prompt's tokens, and a response always has the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from nemo_mcpo.data.assistant_turn import AssistantTurn, read_assistant_turn
from nemo_mcpo.data.chat_template import RefusedByTemplate, render
from nemo_mcpo.data.encoding import encode_around, encode_texts, special_tokens
from nemo_mcpo.data.formats.rows import hash_files
from nemo_mcpo.errors import DataError
from nemo_mcpo.platform.saved_tokenizers import load_tokenizer
from nemo_mcpo.records import Message

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_CHAT_FIX = "use the tokenizer of an instruction-tuned model, or add chat_template.jinja to the directory"


@dataclass(frozen=True, slots=True)
class ChatTokenizer:
    """The model's own tokenizer, with a Rust backend, and how its chat template writes an assistant turn."""

    tokenizer: PreTrainedTokenizerFast
    turn: AssistantTurn

    @property
    def end_of_turn(self) -> int:
        """The token that ends an assistant turn."""
        return self.turn.end


def load_chat_tokenizer(directory: str) -> ChatTokenizer:
    """Load the tokenizer of a local model directory, and find out how its chat template writes an assistant turn.

    Raises:
        DataError: the directory has no usable tokenizer or chat template.
    """
    if not directory:
        raise DataError("text data needs a tokenizer", fix="give the model's directory (--tokenizer)")
    if not Path(directory).is_dir():
        fix = "give a model directory with tokenizer.json"
        raise DataError("no such tokenizer directory", where=directory, fix=fix)
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(directory)
    if not tokenizer.is_fast:
        fix = "save the fast tokenizer with save_pretrained, which writes tokenizer.json"
        raise DataError("the tokenizer has no Rust backend", where=directory, fix=fix)
    template = tokenizer.chat_template
    if not template:
        raise DataError("the tokenizer has no chat template", where=directory, fix=_CHAT_FIX)
    texts = list(template.values()) if isinstance(template, dict) else [template]
    if not all(isinstance(text, str) for text in texts):
        got = type(texts[0]).__name__
        raise DataError("the chat template is not text", where=directory, got=got, fix=_CHAT_FIX)
    if isinstance(template, dict) and "default" not in template:
        fix = "name one of them default in tokenizer_config.json, or in additional_chat_templates"
        raise DataError("no chat template is named default", where=directory, got=sorted(template), fix=fix)
    # Limits saved in tokenizer.json would truncate or pad texts before our own limits apply.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    try:
        turn = read_assistant_turn(tokenizer, directory)
    except RefusedByTemplate as error:
        raise DataError(
            "the chat template does not render", where=directory, got=error.detail[:150], fix=_CHAT_FIX
        ) from error
    return ChatTokenizer(tokenizer, turn)


def tokenizer_hash(directory: str) -> str:
    """Return a hash of the tokenizer's files."""
    files = [path for name in _TOKENIZER_FILES if (path := Path(directory) / name).is_file()]
    files += sorted(Path(directory).glob("additional_chat_templates/*.jinja"))
    return hash_files(Path(directory), files)


def render_prompt(chat: ChatTokenizer, prompt: Sequence[Message]) -> str:
    """Return the prompt as text, up to where the response begins.

    Raises:
        RefusedByTemplate: the template refuses the conversation.
    """
    return render(chat.tokenizer, prompt, add_generation_prompt=True)


def encode_prompts(chat: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Encode rendered prompts on all cores; they already contain all special tokens, including BOS."""
    return encode_texts(chat.tokenizer, texts, special_text=False)


def encode_answers(chat: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Encode responses as they follow a prompt, each with its end-of-turn token, on all cores.

    A special token spelled in a response ("</s>") stays plain text: only the template ends a turn.
    """
    tags = chat.turn.tags[:2] if chat.turn.tags else ()
    marks = {text: token for text, token in special_tokens(chat.tokenizer).items() if text in tags} if tags else {}
    encoded = encode_around(chat.tokenizer, [chat.turn.lead + text for text in texts], marks)
    return [[*chat.turn.head, *ids, chat.end_of_turn] for ids in encoded]
