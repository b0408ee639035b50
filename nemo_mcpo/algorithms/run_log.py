# SPDX-License-Identifier: Apache-2.0
"""A run's log directory: NeMo's exp_manager, ``metrics.jsonl`` (one JSON object per step), TensorBoard and others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from nemo.utils import logging as nemo_logging
from nemo.utils.exp_manager import exp_manager

from nemo_mcpo.config import ExpManager, RunConfig
from nemo_mcpo.platform.distributed import is_rank_zero
from nemo_mcpo.platform.heartbeat import Heartbeat
from nemo_mcpo.storage.atomic import write_whole


class RunLog:
    """Writes the metrics of each step to all configured loggers, on rank 0 only."""

    def __init__(self, config: RunConfig) -> None:
        self.directory = config.exp_manager.directory
        self.metrics_path = self.directory / "metrics.jsonl"
        self.heartbeat = Heartbeat(self.directory)
        self._loggers = _start_experiment(config.exp_manager, self.directory / "nemo")

    def rewind(self, step: int) -> None:
        """Drop the lines after ``step``, and a line torn by a crash, since training continues from ``step``."""
        if not is_rank_zero() or not self.metrics_path.exists():
            return
        kept = []
        for line in self.metrics_path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry["step"] <= step:
                kept.append(line.encode() + b"\n")
        write_whole(self.metrics_path, kept, private=False)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step. NaN, for metrics that this run does not have, is written as null."""
        if not is_rank_zero():
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with open(self.metrics_path, "a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for logger in self._loggers:
            logger.log_metrics({name: value for name, value in finite.items() if value is not None}, step=step)

    def save_prompts(self, step: int, prompts: Sequence[Mapping[str, object]]) -> Path | None:
        """Save the prompts of a failed step as ``not_finite-<step>.json``; return its path on rank 0, else None."""
        if not is_rank_zero():
            return None
        path = self.directory / f"not_finite-{step:08d}.json"
        path.write_text(json.dumps({"step": step, "prompts": list(prompts)}, indent=1))
        return path

    def close(self) -> None:
        """Flush the loggers."""
        for logger in self._loggers:
            logger.finalize("success")


def _start_experiment(settings: ExpManager, directory: Path) -> list:
    """Run NeMo's exp_manager for its files and loggers only.

    It gets its own directory because it moves every file it finds there into ``run_<n>/``. Resuming
    (``algorithms.checkpointing``) and launching processes are done elsewhere; its trainer only carries the loggers.
    """
    nemo_logging.setLevel(nemo_logging.WARNING)  # its INFO lines bury the progress bar
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    exp_manager(
        trainer,
        {
            "explicit_log_dir": str(directory),
            "name": settings.name,
            "resume_if_exists": False,
            "create_checkpoint_callback": False,
            "log_step_timing": False,
            "log_global_rank_0_only": True,
            "seconds_to_sleep": 0,
            "create_tensorboard_logger": settings.create_tensorboard_logger,
            "summary_writer_kwargs": settings.summary_writer_kwargs,
            "create_wandb_logger": settings.create_wandb_logger,
            "wandb_logger_kwargs": settings.wandb_logger_kwargs,
            "create_mlflow_logger": settings.create_mlflow_logger,
            **({"mlflow_logger_kwargs": settings.mlflow_logger_kwargs} if settings.mlflow_logger_kwargs else {}),
        },
    )
    dist.barrier()
    return list(trainer.loggers) if is_rank_zero() else []
