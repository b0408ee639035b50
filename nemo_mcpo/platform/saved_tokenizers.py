# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of local directories, as transformers 4 or 5 saves them.

    transformers 5                                         transformers 4
    tokenizer_class: TokenizersBackend                     PreTrainedTokenizerFast
    extra_special_tokens: [<|user|>, …]                    additional_special_tokens, and the former a mapping

The older version, which is the installed one, loads neither of the left; the newer one loads both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nemo_mcpo.errors import DataError

TOKENIZER_CONFIG = "tokenizer_config.json"
RENAMED = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Class that transformers 5 writes -> the older name, which both know."""


class TokenizersBackend(PreTrainedTokenizerFast):
    """Under the newer name, since transformers warns of a file that names another class than the one that loads it."""


def load_tokenizer(directory: str | Path, where: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer of a local directory.

    Args:
        directory: with a tokenizer's files.
        where: the key that names it, for the error.

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
    except Exception as error:  # transformers and tokenizers raise whatever they met, the latter bare Exceptions
        raise DataError(
            "no usable tokenizer",
            where=where or str(directory),
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:150]}",
            fix=f"give a model directory with tokenizer.json and {TOKENIZER_CONFIG} of a fast tokenizer",
        ) from error


def older_spelling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a tokenizer_config.json that both versions load alike.

    >>> older_spelling({"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<|user|>"]})
    {'tokenizer_class': 'PreTrainedTokenizerFast', 'additional_special_tokens': ['<|user|>']}
    """
    older = dict(settings)
    if older.get("tokenizer_class") in RENAMED:
        older["tokenizer_class"] = RENAMED[older["tokenizer_class"]]
    if isinstance(older.get("extra_special_tokens"), list):
        tokens = [*(older.get("additional_special_tokens") or []), *older.pop("extra_special_tokens")]
        texts = [token["content"] if isinstance(token, dict) else token for token in tokens]
        older["additional_special_tokens"] = list(dict.fromkeys(texts))
    return older


def is_mislabeled(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a byte-level BPE calls itself a Llama tokenizer, as DeepSeek's distilled models and some GGUF files do.

    Some releases of transformers 5 (5.19.0) then build the SentencePiece tokenizer of that name from its vocabulary,
    which loses every blank.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = backend is not None and "ByteLevel" in f"{backend.pre_tokenizer} {backend.decoder}"
    return byte_level and str(settings.get("tokenizer_class")).startswith("Llama")


def own_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a tokenizer_config.json says so that the plain class loads a tokenizer as its former class did."""
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    cleaned = {"clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": tokenizer.padding_side, **cleaned, **tokens}


def _settings(path: Path) -> dict[str, Any]:
    """Of a tokenizer_config.json, which old directories do not have; anything else is left to transformers."""
    if not path.is_file():
        return {}
    settings = json.loads(path.read_text(encoding="utf-8"))
    return settings if isinstance(settings, dict) else {}
