# SPDX-License-Identifier: Apache-2.0
"""Shape of the training data: number of prompts and mean lengths; rejects data that training would reject.

>>> DataShape(prompts=10, prompt_length=100, completion_length=50, candidates=3).tokens(2)
200
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_mcpo.config import OnlineRunConfig, RunConfig
from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.records import PromptTree
from nemo_mcpo.variant import Need


@dataclass(frozen=True, slots=True)
class DataShape:
    """Means of the training data; lengths in tokens.

    The default numbers are Nectar's (183,000 prompts with seven responses, one of which is dropped). The default
    lengths are assumed; they are one of the shapes in docs/performance.md.

    Attributes:
        candidates: completions per prompt, without the preferred one.
        scored: candidates that a step scores per prompt.
        most_candidates: candidates of the prompt with the most; 0 if unknown.
        longest: tokens of the longest prompt with all its completions; 0 if unknown.
        longest_scored: the same with only the preferred completion and the longest candidates that a step scores.
        longest_trained: the same with only the preferred completion and the longest negatives.
    """

    prompts: int = 183_000
    prompt_length: float = 121
    completion_length: float = 288
    candidates: float = 5
    scored: float = 5
    most_candidates: int = 0
    longest: int = 0
    longest_scored: int = 0
    longest_trained: int = 0

    @classmethod
    def from_prepared(cls, directory: Path, config: RunConfig) -> DataShape:
        """Return the means of a prepared dataset, and its longest prompts."""
        if not (directory / "meta.json").is_file():
            fix = "give the directory that scripts/prepare_data.py prints, with meta.json in it"
            raise ConfigError("not a prepared dataset", where="--prepared", got=directory, fix=fix)
        dataset, mcpo = PreparedDataset(directory), config.model.mcpo
        trained, whole = dataset.lengths_with(mcpo.num_negatives), dataset.tree_lengths
        candidates, most = dataset.num_completions - 1, mcpo.scored_candidates or int(dataset.num_completions.max())
        return cls(
            prompts=len(dataset),
            prompt_length=float(dataset.prompt_lengths.mean()),
            completion_length=float(dataset.completion_lengths.mean()),
            candidates=float(candidates.mean()),
            scored=float(np.minimum(candidates, most).mean()),
            most_candidates=int(candidates.max()),
            longest=int(whole.max()),
            longest_scored=int(np.minimum(whole, dataset.lengths_with(most)).max()),
            longest_trained=int((trained if mcpo.replacement else np.minimum(trained, whole)).max()),
        )

    @classmethod
    def from_config(
        cls,
        config: RunConfig,
        *,
        prompts: int | None,
        prompt_length: float | None,
        completion_length: float | None,
        candidates: int | None,
    ) -> DataShape:
        """Return the given means; for None, the default within the configuration's limits."""
        data, default = config.model.data, cls()
        if candidates is None:
            candidates = config.num_samples - 1 if isinstance(config, OnlineRunConfig) else int(default.candidates)
        if data.max_candidates is not None:
            candidates = min(candidates, data.max_candidates)
        if prompt_length is None:
            prompt_length = min(default.prompt_length, data.max_prompt_length)
        if completion_length is None:
            completion_length = min(default.completion_length, max(data.max_length - prompt_length, 1))
        prompts = default.prompts if prompts is None else prompts
        scored = min(candidates, config.model.mcpo.scored_candidates or candidates)
        return cls(prompts, prompt_length, completion_length, candidates, scored)

    def tree(self, num_completions: float) -> PromptTree:
        """Return a prompt of mean length with completions of mean length."""
        completion = np.zeros(round(self.completion_length), np.int8)
        return PromptTree(0, 0, np.zeros(round(self.prompt_length), np.int8), (completion,) * round(num_completions))

    def tokens(self, num_completions: float) -> float:
        """Return the mean number of tokens of a prompt with ``num_completions`` completions."""
        return self.prompt_length + num_completions * self.completion_length


def needs_of(config: RunConfig) -> frozenset[Need]:
    """Return what the configured objective and sampler need."""
    # Imported late because the tables import torch, which takes seconds: errors in flags come first.
    from nemo_mcpo.objectives import run_needs

    return run_needs(config.model.mcpo)


def check_data(data: DataShape, config: RunConfig) -> None:
    """Raise ConfigError for data that training would reject or that cannot exist."""
    model, mcpo = config.model, config.model.mcpo
    length, limit = data.prompt_length + data.completion_length, model.data.max_length
    most = data.most_candidates or data.candidates
    needed = int(Need.NEGATIVES in needs_of(config))
    smallest = min(model.micro_batch_tokens, mcpo.scoring_tokens)
    rules = (
        (data.prompts >= model.global_batch_size, "--prompts", "fewer prompts than one global batch", data.prompts,
         f"at least model.global_batch_size={model.global_batch_size}", "raise it, or lower model.global_batch_size"),
        (data.prompt_length > 0 and data.completion_length > 0 and math.isfinite(length), "--prompt-length",
         "impossible lengths", f"{data.prompt_length} and {data.completion_length}", "above 0",
         "give mean lengths in tokens"),
        (length <= limit, "--completion-length", "a prompt and a completion are too long to train on", f"{length:g}",
         f"at most model.data.max_length={limit}", "lower the mean lengths, or raise model.data.max_length"),
        (data.prompt_length <= smallest, "model.micro_batch_tokens", "a row's budget is smaller than one prompt",
         smallest, f"at least {data.prompt_length:g}", "raise model.micro_batch_tokens and model.mcpo.scoring_tokens"),
        (most >= needed, "--candidates", "no candidates", data.candidates, f"at least {needed}", "raise it"),
        (mcpo.replacement or mcpo.num_negatives <= most, "model.mcpo.num_negatives", "more negatives than candidates",
         mcpo.num_negatives, f"at most {most:g}", "lower it, or give the number of candidates with --candidates"),
    )  # fmt: skip
    for holds, where, what, got, expected, fix in rules:
        if not holds:
            raise ConfigError(what, where=where, got=got, expected=expected, fix=fix)
