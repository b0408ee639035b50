# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints in megatron-core's distributed format: exact, atomic, and loadable under another layout.

<log_dir>/checkpoints/step-00000020/    complete: renamed to this only after everything is on disk
    *.distcp, metadata.json, common.pt   weights and optimizer, resharded on load
    trainer_state.json                   step (the truth, not the name), consumed prompts, fingerprints, schedule
    contents.json                        name and size of every file
    huggingface/                         config.json and tokenizer, so that the checkpoint is self-contained
<log_dir>/checkpoints/step-00000030.incomplete/   an unfinished save; removed at the next start
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nemo_mcpo.errors import CheckpointError, MemoryExhaustedError
from nemo_mcpo.models.checkpoint_files import (
    CHECKPOINT_MARK as STATE_FILE,
    newest_checkpoint,
    note_contents,
    whole_checkpoints,
)
from nemo_mcpo.models.sharded_state import load_sharded_state, save_sharded_state
from nemo_mcpo.planning.parameters import checkpoint_bytes
from nemo_mcpo.platform.command import FailedElsewhere
from nemo_mcpo.platform.distributed import any_rank, is_rank_zero, on_rank_zero
from nemo_mcpo.storage.atomic import sync, sync_tree
from nemo_mcpo.storage.manifests import refuse_another_recipe

INCOMPLETE = ".incomplete"
LOWER_IS_BETTER = "val_loss"
"""The only monitored metric for which lower is better."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """State needed to resume a run, besides weights and optimizer.

    Every draw and the order of prompts follow from ``seed`` and ``consumed_prompts``; nothing else is random.

    Attributes:
        identity: names and values that must not change when a run is resumed (data, weights, seed, batch size).
        validation: the ``val_*`` metrics of this step, if computed.
        batch_state: statistics of earlier batches, for objectives that keep them.
    """

    step: int
    consumed_prompts: int
    seed: int
    identity: dict[str, object]
    schedule: dict[str, object]
    validation: dict[str, float] = field(default_factory=dict)
    batch_state: dict[str, float] = field(default_factory=dict)


class CheckpointManager:
    """Saves, finds, loads and prunes the checkpoints of one run.

    Args:
        directory: ``<log_dir>/checkpoints``.
        keep_last: number of newest checkpoints to keep.
        keep_best: number of best checkpoints to keep in addition.
        monitor: the validation metric that decides which are best.
        source_files: directory whose ``config.json`` and tokenizer files are copied into every checkpoint.
    """

    def __init__(self, directory: Path, *, keep_last: int, keep_best: int, monitor: str, source_files: Path) -> None:
        self.directory = directory
        self.keep_last, self.keep_best, self.monitor = keep_last, keep_best, monitor
        self.source_files = source_files
        on_rank_zero(self._clean_up)

    def _clean_up(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(f"*{INCOMPLETE}"):
            shutil.rmtree(leftover)

    def newest(self) -> tuple[TrainerState, Path] | None:
        """The newest undamaged checkpoint, the same on every rank; None if there are no checkpoints.

        Raises:
            CheckpointError: all checkpoints are damaged.
        """
        return on_rank_zero(self._newest)

    def _newest(self) -> tuple[TrainerState, Path] | None:
        path = newest_checkpoint(self.directory.parent)
        return None if path is None else (read_state(path), path)

    def complete(self) -> list[tuple[TrainerState, Path]]:
        """All undamaged checkpoints, oldest first."""
        return [(read_state(path), path) for path in whole_checkpoints(self.directory.parent)]

    def save(self, model, state: TrainerState) -> Path:
        """Write a checkpoint, which gets its final name only once it is complete. Every rank must call this.

        Raises:
            CheckpointError: the disk is full or not writable; earlier checkpoints are left intact.
            MemoryExhaustedError: the states do not fit in memory; earlier checkpoints are left intact.
        """
        final = self.directory / f"step-{state.step:08d}"
        temporary = final.with_name(final.name + INCOMPLETE)
        self._stage(final, lambda: self._start(model, temporary), everywhere=False)
        self._stage(final, lambda: save_sharded_state(model, temporary), everywhere=True)
        self._stage(final, lambda: self._finish(state, temporary, final), everywhere=False)
        on_rank_zero(self._prune)
        return final

    def _stage(self, final: Path, call: Callable[[], None], *, everywhere: bool) -> None:
        """Run one stage of a save; an error on any rank fails all ranks and removes the unfinished directory."""
        problem: OSError | MemoryExhaustedError | None = None
        if everywhere or is_rank_zero():
            try:
                call()
            except (OSError, MemoryExhaustedError) as error:
                problem = error
        if any_rank(problem is not None):
            free = shutil.disk_usage(self.directory).free / 1e6
            if is_rank_zero():
                shutil.rmtree(final.with_name(final.name + INCOMPLETE), ignore_errors=True)
            elif not str(problem or ""):
                raise FailedElsewhere(CheckpointError.exit_code)
            if isinstance(problem, MemoryExhaustedError):
                raise problem
            raise CheckpointError(
                "the checkpoint could not be written",
                where=str(final),
                got=f"{problem or 'an error on another rank'}; {free:,.1f} MB were free",
                fix="free disk space or fix the directory; the same command continues from the last good checkpoint",
            ) from problem

    def _start(self, model, temporary: Path) -> None:
        """Refuse before writing anything if the file system clearly lacks the space."""
        # 5 % more, for padding and the small files.
        needed = 1.05 * checkpoint_bytes(model.architecture.num_parameters, model.layout.dtype.itemsize)
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise OSError(f"{needed / 1e6:,.1f} MB needed")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def _finish(self, state: TrainerState, temporary: Path, final: Path) -> None:
        """Add the small files and give the directory its final name."""
        _copy_source_files(self.source_files, temporary / "huggingface")
        (temporary / STATE_FILE).write_text(json.dumps(asdict(state), indent=1))
        note_contents(temporary)
        sync_tree(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(self.directory)

    def load(self, model, path: Path) -> TrainerState:
        """Load weights and optimizer in place, saved under any layout. Every rank must call this."""
        load_sharded_state(model, path)
        return read_state(path)

    def _prune(self) -> None:
        checkpoints = self.complete()
        keep = {path for _, path in checkpoints[-self.keep_last :]}
        scored = [
            (state.validation[self.monitor], path) for state, path in checkpoints if self.monitor in state.validation
        ]
        scored.sort(key=lambda item: item[0], reverse=self.monitor != LOWER_IS_BETTER)
        keep |= {path for _, path in scored[: self.keep_best]}
        for _, path in checkpoints:
            if path not in keep:
                # Rename first, so that a kill during the deletion cannot leave half a checkpoint under a valid name.
                doomed = path.with_name(path.name + INCOMPLETE)
                path.rename(doomed)
                shutil.rmtree(doomed)


def read_state(path: Path) -> TrainerState:
    try:
        return TrainerState(**json.loads((path / STATE_FILE).read_text()))
    except (OSError, ValueError, TypeError) as problem:
        raise CheckpointError(
            "not a readable checkpoint",
            where=str(path / STATE_FILE),
            got=problem,
            fix="restore the file; until then the previous checkpoint is used",
        ) from None


def check_identity(state: TrainerState, identity: dict[str, object], path: Path) -> None:
    """Refuse to resume a run with different data, tokenizer, initial weights, seed or batch size."""
    problem = "this run was started with another {name}"
    fix = "restore the old setting, or set a new exp_manager.explicit_log_dir to start a new run"
    refuse_another_recipe(state.identity, identity, CheckpointError, problem, fix, where=str(path))


def _copy_source_files(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.suffix in (".json", ".jinja", ".model", ".txt") and "safetensors" not in file.name:
            shutil.copyfile(file, target / file.name)
