# SPDX-License-Identifier: Apache-2.0
"""A whole MC-PO run, from a checked configuration to the last checkpoint; the same command resumes it.

The order matters: reference log-probs are computed from the initial weights before any training checkpoint is loaded,
so they can never come from trained weights.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from tqdm import tqdm

from nemo_mcpo.algorithms.checkpointing import CheckpointManager, check_identity
from nemo_mcpo.algorithms.mcpo import MCPOTrainer
from nemo_mcpo.algorithms.negatives import ReferencedTrees, Trees
from nemo_mcpo.algorithms.run_data import (
    OpenData,
    RunData,
    check_budgets,
    check_scores,
    open_dataset,
    show_first,
    whole_run,
)
from nemo_mcpo.algorithms.run_log import RunLog
from nemo_mcpo.algorithms.validation import num_validation_prompts
from nemo_mcpo.config import RunConfig
from nemo_mcpo.config.schema import settings_of
from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.errors import CheckpointError, ConfigError
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel, model_config
from nemo_mcpo.models.pretrained import Pretrained, hash_pretrained
from nemo_mcpo.models.reference_cache import ReferenceCache, reference_key
from nemo_mcpo.objectives import run_needs
from nemo_mcpo.platform.distributed import (
    agreed_reason,
    initialize_parallel,
    is_rank_zero,
    leave_together,
    on_rank_zero,
    shut_down,
)
from nemo_mcpo.platform.stopping import StopRequest, job_deadline
from nemo_mcpo.records import Trained
from nemo_mcpo.storage.locks import lock_for_this_process
from nemo_mcpo.variant import Need

ENGINE_KEYS = {"model.mcpo.scoring_tokens", "model.mcpo.reuse_scoring"}
"""Settings that affect the speed, but not what is computed."""

INITIAL_WEIGHTS = "initial weights"
"""Name of the hash of the initial weights in a run's identity."""

Beat = Callable[[str, int, int], None]
"""Reports an activity, how much of it is done, and the total (``platform.heartbeat``)."""

logger = logging.getLogger(__name__)


def run_mcpo(
    config: RunConfig, pretrained: Pretrained, stop: StopRequest | None = None, open_data: OpenData = whole_run
) -> Trained:
    """Train as configured, or as far as the data goes; every process of the launch must call this.

    Raises:
        StoppedEarly: ``stop`` or the job's time limit asked for it; all work is saved.
    """
    settings = config.model
    stop = stop or StopRequest()
    stop.deadline = job_deadline(config.exp_manager.budget_seconds)
    start_processes(config)
    on_rank_zero(lambda: lock_for_this_process(config.exp_manager.directory / ".lock"))
    data = open_data(config, pretrained)
    validation = open_dataset(config, pretrained, settings.data.validation) if settings.data.validation else None
    if validation is not None:
        check_budgets(config, validation)
        check_scores(config, validation)
    weights_hash = on_rank_zero(lambda: hash_pretrained(pretrained))
    identity = run_identity(config, data.fingerprint, weights_hash)
    checkpoints = checkpoint_manager(config, pretrained)
    resume_from = checkpoint_to_resume(config, checkpoints, identity)
    log = RunLog(config)
    show_first(data, pretrained, log.directory)

    trainer, reference_seconds = assemble_trainer(
        config, pretrained, data, validation, checkpoints, log, identity, stop
    )
    if resume_from is not None:
        trainer.load_state_dict(checkpoints.load(trainer.model, resume_from))
    check_start(trainer.step, data.first_step, checkpoints.directory)
    log.rewind(trainer.step)
    started = time.monotonic()
    try:
        trainer.fit()
    finally:
        log.close()
    dist.barrier()
    train_seconds = time.monotonic() - started
    if is_rank_zero():
        print(f"done: {trainer.step} steps; metrics and checkpoints are in {log.directory}", flush=True)
    shut_down()
    return Trained(reference_seconds, train_seconds)


def assemble_trainer(
    config: RunConfig,
    pretrained: Pretrained,
    data: RunData,
    validation: PreparedDataset | None,
    checkpoints: CheckpointManager,
    log: RunLog,
    identity: dict[str, object],
    stop: StopRequest,
) -> tuple[MCPOTrainer, float]:
    """A trainer at step 0: initial weights, reference log-probs of everything it will read, a new optimizer.

    Returns:
        The trainer, and the seconds that the reference log-probs took.

    Raises:
        StoppedEarly: requested while reference log-probs were computed; finished ones stay in the cache.
    """
    model = MegatronGPTMCPOModel(model_config(config, pretrained.architecture))
    model.load_pretrained(pretrained)

    def referenced(trees: Trees, dataset: PreparedDataset, used: Sequence[int]) -> ReferencedTrees:
        weights_hash, beat = str(identity[INITIAL_WEIGHTS]), log.heartbeat.beat
        return ReferencedTrees(trees, reference_of(config, model, dataset, weights_hash, used, stop, beat))

    started = time.monotonic()
    train = referenced(data.trees, data.dataset, data.used)
    held_out = None
    if validation is not None:
        held_out = referenced(validation, validation, range(num_validation_prompts(config, len(validation))))
    reference_seconds = time.monotonic() - started
    model.setup_training(config, data.num_steps)
    trainer = MCPOTrainer(config, model, train, held_out, data.last_step, checkpoints, log, identity, stop)
    return trainer, reference_seconds


def check_start(step: int, first_step: int, checkpoints: Path) -> None:
    """Refuse to train steps if the steps before them were not trained."""
    if step < first_step:
        raise CheckpointError(
            "the previous steps were not trained",
            where=str(checkpoints),
            got=f"newest checkpoint at step {step}" if step else "no checkpoint",
            expected=f"a checkpoint at step {first_step}",
            fix="train the previous segment",
        )


def start_processes(config: RunConfig) -> None:
    """Initialize the process group and megatron-core's groups in the configured layout."""
    settings = config.model
    initialize_parallel(
        tensor_parallel=settings.tensor_model_parallel_size,
        pipeline_parallel=settings.pipeline_model_parallel_size,
        virtual_pipeline_parallel=settings.virtual_pipeline_model_parallel_size,
        seed=settings.seed,
        timeout=timedelta(minutes=config.trainer.distributed_timeout_minutes),
    )


def reference_of(
    config: RunConfig,
    model: MegatronGPTMCPOModel,
    dataset: PreparedDataset,
    weights_hash: str,
    used: Sequence[int],
    stop: StopRequest,
    beat: Beat = lambda doing, done, of: None,
) -> ReferenceCache | None:
    """Reference log-probs of the rows that the run will use, computing those that are missing.

    Raises:
        StoppedEarly: requested between two chunks; finished chunks stay in the cache.
    """
    if Need.REFERENCE not in run_needs(config.model.mcpo):
        return None
    numerics = f"{config.trainer.precision}{model.layout.fp8 or ''}-{model.layout.transformer_impl}"
    key = reference_key(weights_hash, model.architecture, numerics)
    cache = ReferenceCache(dataset.directory, key, dataset.completion_offsets)
    missing = cache.missing(used)
    if missing and cache.others and is_rank_zero():
        logger.warning("ignoring reference log-probs of other weights or precision in %s", cache.path.parent)
    if missing:
        tokens = 2 * config.model.mcpo.scoring_tokens * max(1, dist.get_world_size())
        model.prepare_for_validation_step()
        with tqdm(total=len(missing), desc="reference", unit="prompt", disable=not is_rank_zero()) as bar:

            def chunk_done(num_prompts: int) -> None:
                bar.update(num_prompts)
                beat("reference", bar.n, len(missing))
                if reason := agreed_reason(stop):
                    leave_together(f"{reason}, while computing reference log-probs")

            cache.fill(used, dataset.__getitem__, model.log_probs, tokens, chunk_done)
        model.finish_validation_step()
    return cache


def prepare_reference(config: RunConfig, pretrained: Pretrained, stop: StopRequest) -> None:
    """Compute what every run on these data and weights reads: prepared datasets and all reference log-probs.

    Raises:
        StoppedEarly: requested between two chunks; finished chunks stay in the cache.
    """
    stop.deadline = job_deadline(config.exp_manager.budget_seconds)
    start_processes(config)
    paths = filter(None, (config.model.data.train, config.model.data.validation))
    datasets = [open_dataset(config, pretrained, path) for path in paths]
    weights_hash = on_rank_zero(lambda: hash_pretrained(pretrained))
    model = MegatronGPTMCPOModel(model_config(config, pretrained.architecture))
    model.load_pretrained(pretrained)
    for dataset in datasets:
        reference_of(config, model, dataset, weights_hash, range(len(dataset)), stop)
        if is_rank_zero():
            print(f"{len(dataset)} prompts are ready in {dataset.directory}", flush=True)
    dist.barrier()
    shut_down()


def run_identity(config: RunConfig, fingerprint: str, weights_hash: str) -> dict[str, object]:
    """What must not change when a run is resumed."""
    return {
        "data or tokenizer": fingerprint,
        INITIAL_WEIGHTS: weights_hash,
        **settings_of(
            config,
            "model.seed",
            "model.data.shuffle",
            "model.global_batch_size",
            "trainer.precision",
            "model.mcpo",
            without=ENGINE_KEYS,
        ),
    }


def checkpoint_manager(config: RunConfig, pretrained: Pretrained) -> CheckpointManager:
    """The manager of the checkpoints in the run's log directory."""
    settings = config.trainer.mcpo
    return CheckpointManager(
        config.exp_manager.directory / "checkpoints",
        keep_last=settings.keep_last,
        keep_best=settings.keep_best,
        monitor=settings.monitor,
        source_files=pretrained.files,
    )


def checkpoint_to_resume(
    config: RunConfig, checkpoints: CheckpointManager, identity: dict[str, object]
) -> Path | None:
    """The newest checkpoint, if any; a checkpoint of a different run is refused before anything is computed."""
    found = checkpoints.newest()
    if found is None:
        return None
    if not config.exp_manager.resume_if_exists:
        raise ConfigError(
            "the log directory already contains a run",
            where="exp_manager.resume_if_exists",
            got=False,
            fix="set it to true to continue, or choose another exp_manager.explicit_log_dir",
        )
    state, path = found
    check_identity(state, identity, path)
    if is_rank_zero():
        logger.warning("resuming from step %d (%s)", state.step, path)
    return path
