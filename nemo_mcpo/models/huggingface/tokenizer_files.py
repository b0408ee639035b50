# SPDX-License-Identifier: Apache-2.0
"""The files beside the weights: tokenizer, chat template and generation settings.

They are copied from the source model, with changes that inference servers need: neutral sampling settings
(``generation_settings``), generation that stops at every end-of-turn token, no ``token_type_ids`` for the model, and a
spelling of transformers 5's keys that every version reads.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from nemo_mcpo.data.tokenization import load_chat_tokenizer
from nemo_mcpo.models.huggingface.checkpoint import read_json
from nemo_mcpo.models.huggingface.generation_settings import GENERATION_CONFIG, end_tokens, neutralized
from nemo_mcpo.platform.saved_tokenizers import (
    TOKENIZER_CONFIG,
    is_mislabeled,
    load_tokenizer,
    older_spelling,
    own_settings,
)

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
COPIED_FILES = (
    *VOCABULARIES,
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    TOKENIZER_CONFIG,
    GENERATION_CONFIG,
)
MODEL_INPUTS = ["input_ids", "attention_mask"]


def write_tokenizer_files(directory: Path, source_dir: Path, vocab_size: int) -> None:
    """Copy the source model's tokenizer files and write generation_config.json for ``vocab_size`` tokens."""
    for name in COPIED_FILES:
        if (source_dir / name).is_dir():
            shutil.copytree(source_dir / name, directory / name)
        elif (source_dir / name).exists():
            shutil.copyfile(source_dir / name, directory / name)
    settings = read_json(directory / GENERATION_CONFIG) if (directory / GENERATION_CONFIG).exists() else {}
    ends = end_tokens(source_dir)
    if any((directory / name).exists() for name in VOCABULARIES):
        path = directory / TOKENIZER_CONFIG
        older = older_spelling(read_json(path) if path.exists() else {})
        tokenizer = load_tokenizer(source_dir)
        if is_mislabeled(older, tokenizer):
            older |= own_settings(tokenizer)
            tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
        write_json(path, older | {"model_input_names": MODEL_INPUTS})
        # An answer ends at any of the declared end tokens, the tokenizer's and the chat template's.
        end_of_turn = load_chat_tokenizer(str(source_dir)).end_of_turn if tokenizer.chat_template else None
        ends = end_tokens(source_dir, tokenizer.eos_token_id, end_of_turn)
        pad = ends[0] if ends and tokenizer.pad_token_id is None else tokenizer.pad_token_id
        for key, token in (("bos_token_id", tokenizer.bos_token_id), ("pad_token_id", pad)):
            settings[key] = token if settings.get(key) is None else settings[key]
    if ends:
        settings["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    write_json(directory / GENERATION_CONFIG, neutralized(settings, vocab_size))


def write_json(path: Path, contents: dict[str, object]) -> None:
    """Write JSON in transformers' format."""
    path.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
