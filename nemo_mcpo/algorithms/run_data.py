# SPDX-License-Identifier: Apache-2.0
"""The training data of a run: which trees, for how many steps; data that cannot fill a batch or a row is refused."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_mcpo.algorithms.negatives import Trees
from nemo_mcpo.config import RunConfig
from nemo_mcpo.data.order import PromptStream
from nemo_mcpo.data.prepare import prepare_dataset
from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.data.shown import show_record
from nemo_mcpo.errors import ConfigError, DataError
from nemo_mcpo.models.pretrained import Pretrained
from nemo_mcpo.objectives import run_needs
from nemo_mcpo.platform.distributed import is_rank_zero, on_rank_zero
from nemo_mcpo.sampling import check_chain
from nemo_mcpo.storage.atomic import write_whole
from nemo_mcpo.variant import Need

FIRST_RECORD = "first_record.txt"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunData:
    """The training data of one call of a run: a whole offline run, or one segment of an online run.

    Attributes:
        trees: indexed by the numbers in which the run orders its prompts.
        dataset: the dataset that contains them; reference log-probs are stored beside it.
        used: rows of the dataset that this call trains.
        fingerprint: of data and tokenizer, the same in every call of the run.
        num_steps: steps of the whole run, for the learning-rate schedule.
        first_step, last_step: the steps of this call, ``first_step`` … ``last_step - 1``, counted from 0.
    """

    trees: Trees
    dataset: PreparedDataset
    used: Sequence[int]
    fingerprint: str
    num_steps: int
    first_step: int
    last_step: int


OpenData = Callable[[Any, Pretrained], RunData]
"""Opens the data of one call, given the configuration and the initial model."""


def whole_run(config: RunConfig, pretrained: Pretrained) -> RunData:
    """The data of an offline run: a file of ranked responses, trained from the first step to the last."""
    dataset = open_dataset(config, pretrained, config.model.data.train)
    check_batch(config, dataset)
    check_candidates(config, dataset)
    check_scores(config, dataset)
    warn_of_few_candidates(config, dataset)
    check_budgets(config, dataset)
    num_steps = num_training_steps(config, len(dataset))
    order = PromptStream(len(dataset), config.model.seed, config.model.data.shuffle)
    used = [index for _, index in order.take(0, num_steps * config.model.global_batch_size)]
    return RunData(dataset, dataset, used, dataset.fingerprint, num_steps, 0, num_steps)


def num_training_steps(config: RunConfig, num_prompts: int) -> int:
    """The number of whole global batches in ``max_epochs`` passes, at most ``max_steps``."""
    steps = config.trainer.mcpo.max_epochs * num_prompts // config.model.global_batch_size
    limit = config.trainer.mcpo.max_steps
    return steps if limit < 0 else min(limit, steps)


def open_dataset(config: RunConfig, pretrained: Pretrained, path: str, **changes: Any) -> PreparedDataset:
    """Open the prepared dataset of a file; rank 0 builds it if it is missing.

    ``changes`` override arguments of ``prepare_dataset`` that otherwise come from the configuration.
    """
    data = config.model.data
    options: dict[str, Any] = {
        "data_format": data.format,
        "tokenizer_dir": str(pretrained.files),
        "vocab_size": pretrained.architecture.vocab_size,
        "max_prompt_length": data.max_prompt_length,
        "max_length": data.max_length,
        "drop_ranks": data.drop_ranks,
        "max_candidates": data.max_candidates,
        "ignored_keys": data.ignored_keys,
        "min_answers": 2 if Need.NEGATIVES in run_needs(config.model.mcpo) else 1,
        "cache_dir": data.cache_dir,
        "progress": True,
    } | changes
    return PreparedDataset(on_rank_zero(lambda: prepare_dataset(data=path, **options).directory))


def show_first(data: RunData, pretrained: Pretrained, directory: Path) -> None:
    """Write the first training record, as the model sees it, to ``first_record.txt`` and to the log."""
    if not is_rank_zero() or not len(data.used):
        return
    shown = show_record(data.dataset, data.used[0], str(pretrained.files))
    path = directory / FIRST_RECORD
    write_whole(path, [shown.encode() + b"\n"])
    print(f"the first record as the model sees it: {path}" if sys.stdout.isatty() else shown, flush=True)


def check_batch(config: RunConfig, dataset: PreparedDataset) -> None:
    """Refuse data that cannot fill a batch."""
    size = config.model.global_batch_size
    if len(dataset) < size:
        raise DataError(
            "fewer prompts than one global batch",
            where=config.model.data.train,
            got=f"{len(dataset)} usable prompts",
            expected=f"at least model.global_batch_size={size}",
            fix=f"lower model.global_batch_size, or see {dataset.dropped_path} for what was dropped and why",
        )


def check_candidates(config: RunConfig, dataset: PreparedDataset) -> None:
    """Refuse data that cannot offer any negative."""
    mcpo, most = config.model.mcpo, int((dataset.num_completions - 1).max())
    check_chain(mcpo.chain_steps, mcpo.chain_candidates, most)
    if mcpo.num_negatives > most and not mcpo.replacement:
        raise ConfigError(
            "no prompt has that many candidates",
            where="model.mcpo.num_negatives",
            got=mcpo.num_negatives,
            expected=f"at most {most}",
            fix="lower num_negatives or drop fewer ranks",
        )


def check_scores(config: RunConfig, dataset: PreparedDataset) -> None:
    """Refuse data that lacks scores if the objective reads them."""
    if Need.SCORES in run_needs(config.model.mcpo) and not dataset.is_scored.all():
        first = int(np.argmin(dataset.is_scored))
        raise DataError(
            f"the {config.model.mcpo.objective.name} objective needs a score of every response",
            where=dataset.source(first),
            got=f"{int((~dataset.is_scored).sum())} of {len(dataset)} prompts without scores",
            fix="add a score to each response, or choose an objective that reads none",
        )


def warn_of_few_candidates(config: RunConfig, dataset: PreparedDataset) -> None:
    """Warn about prompts that have fewer candidates than ``num_negatives`` or ``scored_candidates``."""
    mcpo = config.model.mcpo
    limits = (
        (0 if mcpo.replacement else mcpo.num_negatives, "each trains with those it has"),
        (mcpo.scored_candidates or 0, "all candidates of each are scored"),
    )
    for wanted, consequence in limits:
        short = int((dataset.num_completions - 1 < wanted).sum())
        if short and is_rank_zero():
            message = "%d of %d prompts have fewer than %d candidates; %s"
            logger.warning(message, short, len(dataset), wanted, consequence)


def check_budgets(config: RunConfig, dataset: PreparedDataset) -> None:
    """Refuse token budgets that a single prompt exceeds; warn about trees that need a longer row of their own."""
    budgets = {
        "model.micro_batch_tokens": config.model.micro_batch_tokens,
        "model.mcpo.scoring_tokens": config.model.mcpo.scoring_tokens,
    }
    longest = int(dataset.prompt_lengths.max())
    for key, budget in budgets.items():
        if budget < longest:
            raise ConfigError(
                "a prompt exceeds the token budget of a row",
                where=key,
                got=budget,
                expected=f"at least {longest}, the longest prompt in {dataset.directory}",
                fix=f"raise {key}, or lower model.data.max_prompt_length",
            )
    mcpo, whole = config.model.mcpo, dataset.tree_lengths
    trained = np.minimum(whole, dataset.lengths_with(mcpo.num_negatives))
    scored = np.minimum(whole, dataset.lengths_with(mcpo.scored_candidates)) if mcpo.scored_candidates else whole
    sizes = {
        # Without full recompute, reused scoring keeps the matrix products of scored trees.
        "model.micro_batch_tokens": (
            scored if mcpo.reuse_scoring and config.model.activations_checkpoint_granularity != "full" else trained
        ),
        "model.mcpo.scoring_tokens": whole,
    }
    for key, budget in budgets.items():
        large = int((sizes[key] > budget).sum())
        if large and is_rank_zero():
            message = "up to %d of %d prompts with their completions exceed %s=%d; each gets a longer row of its own"
            logger.warning(message, large, len(dataset), key, budget)
