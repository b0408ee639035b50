# SPDX-License-Identifier: Apache-2.0
"""The files beside the weights: tokenizer, chat template, and how to generate.

They are copied from the source model as they are, but for what an inference server trips over: a policy is sampled
(``do_sample: true``), generation stops at every end-of-turn token, and no ``token_type_ids`` are sent to the model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from nemo_mcpo.data.tokenization import load_chat_tokenizer
from nemo_mcpo.models.huggingface.checkpoint import read_json

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
COPIED_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
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


def write_tokenizer_files(directory: Path, source_dir: Path) -> None:
    """Copy the source model's tokenizer files, and write generation_config.json."""
    for name in COPIED_FILES:
        if (source_dir / name).is_dir():
            shutil.copytree(source_dir / name, directory / name)
        elif (source_dir / name).exists():
            shutil.copyfile(source_dir / name, directory / name)
    update_json(directory / GENERATION_CONFIG, {"do_sample": True})
    if not any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return
    update_json(directory / TOKENIZER_CONFIG, {"model_input_names": MODEL_INPUTS})
    tokenizer = AutoTokenizer.from_pretrained(source_dir, trust_remote_code=False, local_files_only=True)
    update_json(directory / GENERATION_CONFIG, generation_settings(tokenizer, source_dir))


def generation_settings(tokenizer: PreTrainedTokenizerBase, source_dir: Path) -> dict[str, object]:
    """The keys of generation_config.json that a server needs to sample whole answers and to stop after them."""
    stops: list[int | None] = []
    for path in (source_dir / GENERATION_CONFIG, source_dir / "config.json"):
        declared = read_json(path).get("eos_token_id") if path.exists() else None
        stops += declared if isinstance(declared, list) else [declared]
    stops.append(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        stops.append(load_chat_tokenizer(str(source_dir)).end_of_turn)
    eos = list(dict.fromkeys(stop for stop in stops if stop is not None))
    settings: dict[str, object] = {"bos_token_id": tokenizer.bos_token_id}
    if eos:
        pad = tokenizer.pad_token_id
        settings |= {"eos_token_id": eos if len(eos) > 1 else eos[0], "pad_token_id": eos[0] if pad is None else pad}
    return settings


def update_json(path: Path, changes: dict[str, object]) -> None:
    """Change keys of a JSON file, which need not exist yet."""
    contents = read_json(path) if path.exists() else {}
    path.write_text(json.dumps(contents | changes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
