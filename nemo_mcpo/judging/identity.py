# SPDX-License-Identifier: Apache-2.0
"""Which judge gave a verdict: a stored one may stand for a new one only if the same weights would give it.

| what is known of the judge | what identifies it | its verdicts serve |
|---|---|---|
| ``judge.identity`` | that text and the model's name | every run |
| a directory | its weights, tokenizer, chat template, generation settings | every run |
| the name that running servers know | nothing: a name outlives the weights behind it | the run that asked |
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import openai

from nemo_mcpo.config import Judge as JudgeSettings
from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.huggingface.tokenizer_files import COPIED_FILES
from nemo_mcpo.rollouts.client import AwayError, RefusedError, send
from nemo_mcpo.rollouts.serving import Serving

_FILES = (*COPIED_FILES, "config.json", "hf_quant_config.json")


@dataclass(frozen=True, slots=True)
class Identity:
    """Attributes:
    facts: part of every key, JSON values.
    is_known: they identify the weights, so that another run may use the verdicts.
    """

    facts: tuple[object, ...]
    is_known: bool


@dataclass(frozen=True, slots=True)
class ListedModel:
    """What servers list about a model.

    Attributes:
        roots: where they have it from, or what it is an adapter of, sorted; nothing where they do not say. The time of
            creation is left out: it is that of the server's start, or of the request.
        window: the smallest number of tokens of a request and its reply; None where they do not say.
    """

    roots: tuple[str, ...]
    window: int | None


def identity_of(settings: JudgeSettings, listed: ListedModel) -> Identity:
    """What identifies the language model that judges."""
    server, model = settings.server, settings.server.model or ""
    # What a server of ours is told can change a reply: an adapter, a quantization.
    told = [] if server.urls else [server.kv_cache_dtype, *server.arguments]
    if settings.identity is not None:
        return Identity((settings.identity, model, *told), True)
    if Path(model).is_dir():
        return Identity((hash_directory(Path(model)), *told), True)
    return Identity((model, *listed.roots, *told), False)


def hash_directory(directory: Path) -> str:
    """Hash of a model's weights and of every file beside them that changes what it says."""
    whole = hashlib.blake2b(hash_weights(directory).encode(), digest_size=16)
    for name in sorted(_FILES):
        path = directory / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []:
            if file.is_file():
                content = file.read_bytes()
                whole.update(f"\n{file.relative_to(directory)} {len(content)}\n".encode() + content)
    return whole.hexdigest()


def listed_model(serving: Serving) -> ListedModel:
    """What the servers list about the model that is asked."""
    names = {serving.model, Path(serving.model).name}
    entries = [one for _, own in serving.pool.each(_listed) for one in own if one.get("id") in names]
    roots = {str(one[key]) for one in entries for key in ("root", "parent") if one.get(key)}
    windows = [length for one in entries if isinstance(length := one.get("max_model_len"), int)]
    return ListedModel(tuple(sorted(roots)), min(windows, default=None))


def _listed(client: openai.OpenAI) -> Sequence[dict[str, object]]:
    """Nothing where there is no such list."""
    try:
        return [model.to_dict() for model in send(lambda client: client.models.list(), client)]
    except (RefusedError, AwayError):
        return []
