# SPDX-License-Identifier: Apache-2.0
"""Prompts and answers as token ids, by the model's own chat template.

    completion = answer's tokens + end-of-turn token            prompt = template(conversation, add_generation_prompt)

The prompt is tokenized once, however many answers it has, and answers are appended as ids: tokens never merge across
the border, so the same prompt tokens serve every answer, and the same answer has the same tokens everywhere.
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
_CHAT_CURE = "use the tokenizer of an instruction-tuned model, or add chat_template.jinja to the directory"


@dataclass(frozen=True, slots=True)
class ChatTokenizer:
    """A tokenizer with what its chat template says about an assistant turn.

    Attributes:
        tokenizer: the model's own, with a Rust backend.
        turn: how its template writes an assistant turn.
    """

    tokenizer: PreTrainedTokenizerFast
    turn: AssistantTurn

    @property
    def template(self) -> str | dict[str, str]:
        """The text of the chat template, or of several."""
        return self.tokenizer.chat_template

    @property
    def end_of_turn(self) -> int:
        """The token that ends an assistant turn."""
        return self.turn.end

    @property
    def lead(self) -> str:
        """What the template puts between the generation prompt and an answer, such as Llama 2's space."""
        return self.turn.lead


def load_chat_tokenizer(directory: str) -> ChatTokenizer:
    """Loads the tokenizer of a local model directory and reads the end of a turn from its chat template."""
    tokenizer = _load(directory)
    if not tokenizer.is_fast:
        fix = "save tokenizer.json with save_pretrained of the fast tokenizer"
        raise DataError("the tokenizer has no Rust backend", where=directory, fix=fix)
    template = tokenizer.chat_template
    if not template:
        raise DataError("the tokenizer has no chat template", where=directory, fix=_CHAT_CURE)
    texts = list(template.values()) if isinstance(template, dict) else [template]
    if not all(isinstance(text, str) for text in texts):
        got = f"{type(texts[0]).__name__}"
        raise DataError("the chat template is not text", where=directory, got=got, fix=_CHAT_CURE)
    if isinstance(template, dict) and "default" not in template:
        fix = "name one of them default in tokenizer_config.json, or in additional_chat_templates"
        raise DataError("no default among the chat templates", where=directory, got=sorted(template), fix=fix)
    # Limits of their own in tokenizer.json would cut or pad every text before our limits see it.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    try:
        turn = read_assistant_turn(tokenizer, directory)
    except RefusedByTemplate as error:
        raise DataError(
            "the chat template does not render", where=directory, got=error.detail[:150], fix=_CHAT_CURE
        ) from error
    return ChatTokenizer(tokenizer, turn)


def tokenizer_hash(directory: str) -> str:
    """A hash of the tokenizer's files."""
    files = [path for name in _TOKENIZER_FILES if (path := Path(directory) / name).is_file()]
    files += sorted(Path(directory).glob("additional_chat_templates/*.jinja"))
    return hash_files(Path(directory), files)


def render_prompt(chat: ChatTokenizer, prompt: Sequence[Message]) -> str:
    """The prompt as text, up to where the answer begins.

    Raises:
        RefusedByTemplate: the template refuses the conversation.
    """
    return render(chat.tokenizer, prompt, add_generation_prompt=True)


def encode_prompts(chat: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered prompts, on all cores; the template has written the special tokens, BOS among them."""
    return encode_texts(chat.tokenizer, texts, special_text=False)


def encode_answers(chat: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of answers, as they follow the prompt, with their end-of-turn token, on all cores.

    An answer that spells out a special token ("</s>") keeps it as plain text: only the template ends a turn.
    """
    tags = chat.turn.tags[:2] if chat.turn.tags else ()
    marks = {text: token for text, token in special_tokens(chat.tokenizer).items() if text in tags} if tags else {}
    encoded = encode_around(chat.tokenizer, [chat.lead + text for text in texts], marks)
    return [[*chat.turn.head, *ids, chat.end_of_turn] for ids in encoded]


def _load(directory: str) -> PreTrainedTokenizerFast:
    if not directory:
        fix = "give the model's directory (--tokenizer)"
        raise DataError("text data needs a tokenizer", fix=fix)
    if not Path(directory).is_dir():
        fix = "give a model directory with tokenizer.json"
        raise DataError("no such tokenizer directory", where=directory, fix=fix)
    return load_tokenizer(directory)
