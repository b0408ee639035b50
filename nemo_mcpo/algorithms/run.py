# SPDX-License-Identifier: Apache-2.0
"""A whole MC-PO run, from a checked configuration to the last checkpoint; the same command continues it.

The order matters: the reference log-probs are computed from the initial weights before any training checkpoint is
loaded, so that they can never come from trained weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.distributed as dist
from tqdm import tqdm

from nemo_mcpo.algorithms.checkpointing import CheckpointManager, check_identity
from nemo_mcpo.algorithms.mcpo import MCPOTrainer, num_training_steps
from nemo_mcpo.algorithms.negatives import NegativeSampling, ReferencedTrees
from nemo_mcpo.algorithms.run_log import RunLog, log_directory
from nemo_mcpo.algorithms.validation import num_validation_prompts
from nemo_mcpo.config import Model, RunConfig
from nemo_mcpo.data.order import PromptStream
from nemo_mcpo.data.prepare import prepare_dataset
from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.errors import ConfigError, DataError
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel, model_config
from nemo_mcpo.models.pretrained import Pretrained, hash_pretrained
from nemo_mcpo.models.reference_cache import ReferenceCache, reference_key
from nemo_mcpo.objectives import REFERENCE_FREE, bind_objective
from nemo_mcpo.platform.distributed import initialize_parallel, is_rank_zero, on_rank_zero, shut_down
from nemo_mcpo.platform.locks import lock_for_this_process
from nemo_mcpo.sampling import check_chain

ENGINE_KEYS = {"scoring_tokens", "reuse_scoring"}
"""Keys of ``model.mcpo`` that decide how fast, not what is computed."""

logger = logging.getLogger(__name__)


def run_mcpo(config: RunConfig, pretrained: Pretrained) -> None:
    """Train as configured; every process of the launch calls it."""
    settings = config.model
    start_processes(settings)
    on_rank_zero(lambda: lock_for_this_process(log_directory(config.exp_manager) / ".lock"))
    objective = bind_objective(settings.mcpo.objective, settings.mcpo.model_dump())
    sampling = NegativeSampling.from_config(settings)
    train = open_dataset(config, pretrained, settings.data.train)
    validation = open_dataset(config, pretrained, settings.data.validation) if settings.data.validation else None
    for dataset in (train, validation):
        if dataset is not None:
            check_budgets(config, dataset)
    num_steps = checked_num_steps(config, train)
    weights_hash = on_rank_zero(lambda: hash_pretrained(pretrained))
    identity = run_identity(config, train, weights_hash)
    checkpoints = checkpoint_manager(config, pretrained)
    resume_from = checkpoint_to_resume(config, checkpoints, identity)
    log = RunLog(config)

    model = MegatronGPTMCPOModel(model_config(config, pretrained.architecture))
    model.load_pretrained(pretrained)
    order = PromptStream(len(train), settings.seed, settings.data.shuffle)
    used = [index for _, index in order.take(0, num_steps * settings.global_batch_size)]
    train_trees = with_reference(config, model, train, weights_hash, used)
    validation_trees = None
    if validation is not None:
        used = list(range(num_validation_prompts(config, len(validation))))
        validation_trees = with_reference(config, model, validation, weights_hash, used)
    model.setup_training(config, objective, num_steps)

    trainer = MCPOTrainer(
        config, model, objective, sampling, train_trees, validation_trees, num_steps, checkpoints, log, identity
    )
    if resume_from is not None:
        trainer.load_state_dict(checkpoints.load(model, resume_from))
    log.rewind(trainer.step)
    try:
        trainer.fit()
    finally:
        log.close()
    dist.barrier()
    if is_rank_zero():
        print(f"done: {trainer.step} steps; metrics and checkpoints are in {log.directory}", flush=True)
    shut_down()


def start_processes(settings: Model) -> None:
    """The process group and megatron-core's groups, in the configured layout."""
    initialize_parallel(
        tensor_parallel=settings.tensor_model_parallel_size,
        pipeline_parallel=settings.pipeline_model_parallel_size,
        virtual_pipeline_parallel=settings.virtual_pipeline_model_parallel_size,
        seed=settings.seed,
    )


def open_dataset(config: RunConfig, pretrained: Pretrained, path: str) -> PreparedDataset:
    """The prepared dataset of a file; rank 0 makes it when it is missing."""
    data = config.model.data

    def prepare() -> Path:
        return prepare_dataset(
            data=path,
            data_format=data.format,
            tokenizer_dir=str(pretrained.files),
            vocab_size=pretrained.architecture.vocab_size,
            max_prompt_length=data.max_prompt_length,
            max_length=data.max_length,
            drop_ranks=data.drop_ranks,
            max_candidates=data.max_candidates,
            cache_dir=data.cache_dir,
            progress=True,
        ).directory

    return PreparedDataset(on_rank_zero(prepare))


def checked_num_steps(config: RunConfig, train: PreparedDataset) -> int:
    """Optimizer steps of the run; refuses data that cannot fill a batch or offer any negative."""
    size, negatives = config.model.global_batch_size, config.model.mcpo.num_negatives
    if len(train) < size:
        raise DataError(
            "fewer prompts than one global batch",
            where=config.model.data.train,
            got=f"{len(train)} usable prompts",
            expected=f"at least model.global_batch_size={size}",
            cure=f"lower model.global_batch_size, or see what was dropped and why in {train.dropped_path}",
        )
    candidates = train.num_completions - 1
    check_chain(config.model.mcpo.chain_steps, config.model.mcpo.chain_candidates, int(candidates.max()))
    if negatives and not config.model.mcpo.replacement:
        short = int((candidates < negatives).sum())
        if short == len(train):
            raise ConfigError(
                "no prompt has this many candidates",
                where="model.mcpo.num_negatives",
                got=negatives,
                expected=f"at most {int(candidates.max())}",
                cure="lower num_negatives or drop fewer ranks",
            )
        if short and is_rank_zero():
            logger.warning(
                "%d of %d prompts have fewer than %d candidates: they train with those they have",
                short,
                len(train),
                negatives,
            )
    return num_training_steps(config, len(train))


def check_budgets(config: RunConfig, dataset: PreparedDataset) -> None:
    """Refuse token budgets that a single prompt exceeds; say how many trees will have a larger row of their own."""
    budgets = {
        "model.micro_batch_tokens": config.model.micro_batch_tokens,
        "model.mcpo.scoring_tokens": config.model.mcpo.scoring_tokens,
    }
    longest = int(dataset.prompt_lengths.max())
    for key, budget in budgets.items():
        if budget < longest:
            raise ConfigError(
                "the token budget of a row is smaller than one prompt",
                where=key,
                got=budget,
                expected=f"at least {longest}, the longest prompt in {dataset.directory}",
                cure=f"raise {key}, or lower model.data.max_prompt_length",
            )
    whole = dataset.tree_lengths
    trained = np.minimum(whole, trained_lengths(dataset, config.model.mcpo.num_negatives))
    recompute, reuse = config.model.activations_checkpoint_granularity, config.model.mcpo.reuse_scoring
    sizes = {
        # Without full recompute, scoring that is reused keeps the products of whole trees.
        "model.micro_batch_tokens": whole if reuse and recompute != "full" else trained,
        "model.mcpo.scoring_tokens": whole,
    }
    for key, budget in budgets.items():
        large = int((sizes[key] > budget).sum())
        if large and is_rank_zero():
            message = "up to %d of %d prompts with their answers exceed %s=%d: each gets a longer row of its own"
            logger.warning(message, large, len(dataset), key, budget)


def trained_lengths(dataset: PreparedDataset, num_negatives: int) -> np.ndarray:
    """Tokens of each prompt, its preferred answer and ``num_negatives`` of its longest, int64 ``[rows]``: a bound."""
    first = dataset.completion_offsets[:-1]
    preferred = dataset.completion_lengths[first]
    longest = np.maximum.reduceat(dataset.completion_lengths, first)
    return dataset.prompt_lengths + preferred + num_negatives * longest


def with_reference(
    config: RunConfig, model: MegatronGPTMCPOModel, dataset: PreparedDataset, weights_hash: str, used: Sequence[int]
) -> ReferencedTrees:
    """The dataset with reference log-probs of the prompts that the run will use; what is missing is computed now."""
    if config.model.mcpo.objective in REFERENCE_FREE:
        return ReferencedTrees(dataset, None)
    numerics = f"{config.trainer.precision}{model.layout.fp8 or ''}-{model.layout.transformer_impl}"
    key = reference_key(weights_hash, model.architecture, numerics)
    cache = ReferenceCache(dataset.directory, key, dataset.completion_offsets)
    missing = cache.missing(used)
    if missing and cache.others and is_rank_zero():
        logger.warning("reference log-probs of other weights or precision are in %s: not used", cache.path.parent)
    if missing:
        tokens = 2 * config.model.mcpo.scoring_tokens * max(1, dist.get_world_size())
        model.prepare_for_validation_step()
        with tqdm(total=len(missing), desc="reference", unit="prompt", disable=not is_rank_zero()) as bar:
            cache.fill(used, dataset.__getitem__, model.score, tokens, bar.update)
        model.finish_validation_step()
    return ReferencedTrees(dataset, cache)


def run_identity(config: RunConfig, train: PreparedDataset, weights_hash: str) -> dict[str, object]:
    """What must stay the same for a resumed run to be the same run."""
    return {
        "data or tokenizer": train.fingerprint,
        "initial weights": weights_hash,
        "model.seed": config.model.seed,
        "model.data.shuffle": config.model.data.shuffle,
        "model.global_batch_size": config.model.global_batch_size,
        "trainer.precision": config.trainer.precision,
        **{f"model.mcpo.{name}": value for name, value in config.model.mcpo.model_dump(exclude=ENGINE_KEYS).items()},
    }


def checkpoint_manager(config: RunConfig, pretrained: Pretrained) -> CheckpointManager:
    """The checkpoints of the run's log directory."""
    settings = config.trainer.mcpo
    return CheckpointManager(
        log_directory(config.exp_manager) / "checkpoints",
        keep_last=settings.keep_last,
        keep_best=settings.keep_best,
        monitor=settings.monitor,
        source_files=pretrained.files,
    )


def checkpoint_to_resume(
    config: RunConfig, checkpoints: CheckpointManager, identity: dict[str, object]
) -> Path | None:
    """The newest checkpoint, if there is one; refuses one of another run before anything is computed."""
    found = checkpoints.newest()
    if found is None:
        return None
    if not config.exp_manager.resume_if_exists:
        raise ConfigError(
            "the log directory already holds a run",
            where="exp_manager.resume_if_exists",
            got=False,
            cure="set it to true to continue, or choose another exp_manager.explicit_log_dir",
        )
    state, path = found
    check_identity(state, identity, path)
    if is_rank_zero():
        logger.warning("continuing from step %d (%s)", state.step, path)
    return path
