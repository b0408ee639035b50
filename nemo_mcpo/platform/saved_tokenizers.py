# SPDX-License-Identifier: Apache-2.0
"""Loads tokenizers from local directories, as saved by transformers 4 or 5.

    transformers 5                                         transformers 4
    tokenizer_class: TokenizersBackend                     PreTrainedTokenizerFast
    extra_special_tokens: [<|user|>, …]                    additional_special_tokens; extra_special_tokens: a mapping

transformers 4, the installed version, cannot load the left column; transformers 5 loads both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nemo_mcpo.errors import DataError

TOKENIZER_CONFIG = "tokenizer_config.json"


class TokenizersBackend(PreTrainedTokenizerFast):
    """The newer name: transformers warns if a file names a different class than the one that loads it."""


def load_tokenizer(directory: str | Path, where: str = "") -> PreTrainedTokenizerBase:
    """Return the tokenizer in a local directory.

    Args:
        where: the configuration key that names the directory, for the error.

    Raises:
        DataError: transformers cannot load it.
    """
    try:
        settings = _settings(Path(directory) / TOKENIZER_CONFIG)
        older = older_spelling(settings)
        changed = {key: value for key, value in older.items() if value != settings.get(key)}
        if "extra_special_tokens" not in older and "extra_special_tokens" in settings:
            changed["extra_special_tokens"] = {}
        renamed = changed.pop("tokenizer_class", None)
        cls = TokenizersBackend if renamed else AutoTokenizer
        return cls.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **changed)
    except Exception as error:  # transformers and tokenizers raise errors of any class, even bare Exceptions
        raise DataError(
            "no usable tokenizer",
            where=where or str(directory),
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:150]}",
            fix=f"use a model directory with the tokenizer.json and {TOKENIZER_CONFIG} of a fast tokenizer",
        ) from error


def older_spelling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a tokenizer_config.json in a form that both versions load alike.

    >>> older_spelling({"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<|user|>"]})
    {'tokenizer_class': 'PreTrainedTokenizerFast', 'additional_special_tokens': ['<|user|>']}
    """
    older = dict(settings)
    if older.get("tokenizer_class") == "TokenizersBackend":
        older["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(older.get("extra_special_tokens"), list):
        tokens = [*(older.get("additional_special_tokens") or []), *older.pop("extra_special_tokens")]
        texts = [token["content"] if isinstance(token, dict) else token for token in tokens]
        older["additional_special_tokens"] = list(dict.fromkeys(texts))
    return older


def is_mislabeled(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a byte-level BPE is saved as a Llama tokenizer, as in DeepSeek's distilled and some GGUF models.

    Some releases of transformers 5 (5.19.0) then build the SentencePiece tokenizer of that name from its vocabulary,
    which loses every space.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = backend is not None and "ByteLevel" in f"{backend.pre_tokenizer} {backend.decoder}"
    return byte_level and str(settings.get("tokenizer_class")).startswith("Llama")


def own_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return a tokenizer_config.json with which the plain class loads a tokenizer as its original class did."""
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    cleaned = {"clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": tokenizer.padding_side, **cleaned, **tokens}


def _settings(path: Path) -> dict[str, Any]:
    """Return the content of a tokenizer_config.json, which old directories lack; transformers reports invalid ones."""
    if not path.is_file():
        return {}
    settings = json.loads(path.read_text(encoding="utf-8"))
    return settings if isinstance(settings, dict) else {}
