# SPDX-License-Identifier: Apache-2.0
"""Identifies the judge that gave a verdict, so that a stored verdict is reused only for the same weights.

| what is known about the judge | what identifies it | its verdicts are used by |
|---|---|---|
| ``judge.identity`` | that text and the model's name | every run |
| a directory | its weights, tokenizer, chat template, generation settings | every run |
| a name on running servers | nothing: the weights behind a name can change | the run that asked |
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nemo_mcpo.config import Judge as JudgeSettings
from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.huggingface.tokenizer_files import COPIED_FILES
from nemo_mcpo.rollouts.probe import listed_models
from nemo_mcpo.rollouts.serving import Serving

_FILES = (*COPIED_FILES, "config.json", "hf_quant_config.json")


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a judge.

    Attributes:
        facts: JSON values that are part of every key.
        is_known: whether they identify the weights, so that other runs may use the verdicts.
    """

    facts: tuple[object, ...]
    is_known: bool


@dataclass(frozen=True, slots=True)
class ListedModel:
    """What servers report about a model.

    Attributes:
        roots: where it was loaded from, or the model that it is an adapter of, sorted; empty if not reported. The
            creation time is ignored, since it is the time of the server's start, or of the request.
        window: the smallest context window, in tokens; None if not reported.
    """

    roots: tuple[str, ...]
    window: int | None


def identity_of(settings: JudgeSettings, listed: ListedModel) -> Identity:
    """What identifies the language model of a judge."""
    server, model = settings.server, settings.server.model or ""
    # Arguments of a server that we start, such as an adapter or quantization, can change its replies.
    told = [] if server.urls else [server.kv_cache_dtype, *server.arguments]
    if settings.identity is not None:
        return Identity((settings.identity, model, *told), True)
    if Path(model).is_dir():
        return Identity((hash_directory(Path(model)), *told), True)
    return Identity((model, *listed.roots, *told), False)


def hash_directory(directory: Path) -> str:
    """Hash a model's weights and every other file in its directory that affects its output."""
    whole = hashlib.blake2b(hash_weights(directory).encode(), digest_size=16)
    for name in sorted(_FILES):
        path = directory / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []:
            if file.is_file():
                content = file.read_bytes()
                whole.update(f"\n{file.relative_to(directory)} {len(content)}\n".encode() + content)
    return whole.hexdigest()


def listed_model(serving: Serving) -> ListedModel:
    """What the servers report about the judge's model."""
    names = {serving.model, Path(serving.model).name}
    listed = [model.to_dict() for _, own in serving.pool.each(listed_models) for model in own]
    entries = [one for one in listed if one.get("id") in names]
    roots = {str(one[key]) for one in entries for key in ("root", "parent") if one.get(key)}
    windows = [length for one in entries if isinstance(length := one.get("max_model_len"), int)]
    return ListedModel(tuple(sorted(roots)), min(windows, default=None))
