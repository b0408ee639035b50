# SPDX-License-Identifier: Apache-2.0
"""The policy as a NeMo model: megatron-core's GPT, its optimizer, and the methods that a trainer calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nemo_mcpo.config import RunConfig
from nemo_mcpo.config.rules import reused_scoring
from nemo_mcpo.config.schema import settings_of
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.forward_step import collect, score_trees, train_trees
from nemo_mcpo.models.gpt import ParallelLayout, build_gpt, fp8_scoring, resolve_transformer_impl
from nemo_mcpo.models.optimizer import build_optimizer, build_schedule, finish_gradients, wrap_for_training
from nemo_mcpo.models.pretrained import Pretrained, load_pretrained
from nemo_mcpo.models.replay import LayerRecording, ProductRecording, Recording
from nemo_mcpo.models.rows import Scored, share_of_replica
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.platform.out_of_memory import memory_of
from nemo_mcpo.platform.transfer import on_device
from nemo_mcpo.records import Objective, PreferenceBatch, PromptTree
from nemo_mcpo.trees.packing import pack_into_rows

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
SETTINGS = (
    "trainer.precision",
    "model.micro_batch_tokens",
    "model.mcpo.scoring_tokens",
    "model.mcpo.reuse_scoring",
    "model.tensor_model_parallel_size",
    "model.pipeline_model_parallel_size",
    "model.virtual_pipeline_model_parallel_size",
    "model.sequence_parallel",
    "model.activations_checkpoint_granularity",
    "model.transformer_impl",
    "model.attention_backend",
    "model.fp8",
    "model.fp8_recipe",
    "model.mcpo.scoring_fp8",
)
"""Keys that the model reads; in its ``cfg`` each is named by the last part of its key."""


def model_config(config: RunConfig, architecture: ModelArchitecture) -> DictConfig:
    """Return the ``cfg`` of ``MegatronGPTMCPOModel``, from which a ``.nemo`` file can rebuild the model."""
    settings = {key.rpartition(".")[2]: value for key, value in settings_of(config, *SETTINGS).items()}
    return OmegaConf.create({"architecture": asdict(architecture)} | settings)


def scoring_recording(requested: bool | str, layout: ParallelLayout) -> Callable[[], Recording] | None:
    """Return what makes the recording of a scored row; None if training computes everything itself.

    See ``config.rules.reused_scoring``.
    """
    local = layout.transformer_impl == "local"
    reused = reused_scoring(
        requested, recompute=layout.recompute, fp8=layout.fp8, local=local, scoring_fp8=layout.scoring_fp8
    )
    if reused == "products":
        # With sequence parallelism, the ranks' products are summed into another tensor.
        return partial(ProductRecording, copies=layout.tensor > 1 and not layout.sequence_parallel)
    return LayerRecording if reused else None


class MegatronGPTMCPOModel(ModelPT):
    """The model that trainers use; see ``models.interface.SupportsPreferenceTraining``.

    Build it after ``platform.distributed.initialize_parallel``. Weights are uninitialized until ``load_pretrained``.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None) -> None:
        super().__init__(cfg=cfg, trainer=trainer)
        self.architecture = ModelArchitecture(**OmegaConf.to_container(cfg.architecture))
        self.layout = ParallelLayout(
            tensor=cfg.tensor_model_parallel_size,
            pipeline=cfg.pipeline_model_parallel_size,
            virtual_pipeline=cfg.virtual_pipeline_model_parallel_size,
            sequence_parallel=cfg.sequence_parallel,
            dtype=DTYPES[cfg.precision],
            transformer_impl=resolve_transformer_impl(
                cfg.transformer_impl, needs_fp8=bool(cfg.fp8 or cfg.scoring_fp8)
            ),
            attention_backend=cfg.attention_backend,
            recompute=cfg.activations_checkpoint_granularity or "none",
            fp8=cfg.fp8,
            fp8_recipe=cfg.fp8_recipe,
            scoring_fp8=cfg.scoring_fp8,
        )
        self.recording = scoring_recording(cfg.reuse_scoring, self.layout)
        # Plain lists, not modules: Lightning must not move, cast or save what megatron-core owns.
        with memory_of("the model's weights"):
            self.chunks = build_gpt(self.architecture, self.layout)
        self.wrapped: list = self.chunks
        self.optimizer: Any = None
        self.schedule: Any = None
        self.source_files: Path | None = None  # config.json and tokenizer of the initial model

    @memory_of("the model's weights")
    def load_pretrained(self, pretrained: Pretrained) -> None:
        """Load the initial weights. Every rank calls this before ``setup_training``."""
        load_pretrained(pretrained, self)
        self.source_files = pretrained.files

    @memory_of("gradients and optimizer")
    def setup_training(self, config: RunConfig, num_steps: int) -> None:
        """Set up gradient buffers, optimizer and schedule. The weights must already be loaded."""
        bf16 = self.layout.dtype == torch.bfloat16
        optim, clip = config.model.optim, config.trainer.mcpo.gradient_clip_val
        self.wrapped = wrap_for_training(self.chunks, bf16=bf16)
        self.optimizer = build_optimizer(optim, self.wrapped, bf16=bf16, clip=clip)
        self.schedule = build_schedule(optim, self.optimizer, num_steps)

    def share(self, trees: Sequence[PromptTree]) -> list[int]:
        """See ``models.interface``."""
        return share_of_replica(trees)

    def parts(self, trees: Sequence[PromptTree]) -> list[list[int]]:
        """See ``models.interface``.

        There is one part unless scoring is reused, because the recordings of a part are kept until it is trained. A
        part then has up to ``scoring_tokens`` tokens for layer outputs, or ``micro_batch_tokens`` for products, which
        are larger; times the number of pipeline stages, because each stage holds only its share of the layers.
        """
        share = self.share(trees)
        if self.recording is None:
            return [share]
        room = self.cfg.scoring_tokens if self.recording is LayerRecording else self.cfg.micro_batch_tokens
        sizes = [trees[index].num_tokens for index in share]
        packed = pack_into_rows(sizes, room * self.layout.pipeline)
        return [[share[item] for item in part] for part in packed]

    @memory_of("scoring")
    def log_probs(self, trees: Sequence[PromptTree], *, share_prompts: bool = True) -> Tensor:
        """See ``models.interface``."""
        share = self.share(trees)
        mine = [trees[index] for index in share]
        table = score_trees(self.wrapped, mine, self.cfg.scoring_tokens, share_prompts=share_prompts).logps_bK
        num_columns = max(len(tree.completions) for tree in trees)
        table = torch.nn.functional.pad(table, (0, num_columns - table.shape[1]))
        return collect(table, share, len(trees))

    @memory_of("scoring")
    def score(self, trees: Sequence[PromptTree], first_column: int, *, exactly: bool = False) -> Scored:
        """See ``models.interface``."""
        in_fp8 = self.layout.scoring_fp8 and not exactly
        with fp8_scoring(self.chunks[0].config) if in_fp8 else nullcontext():
            return score_trees(
                self.wrapped, trees, self.cfg.scoring_tokens, first_column=first_column, recording=self.recording
            )

    def collect(self, columns: Mapping[str, Tensor], rows: Sequence[int], num_rows: int) -> dict[str, Tensor]:
        """See ``models.interface``. Within a step, only this and gradient clipping wait for the GPU."""
        values_b = torch.stack(on_device(list(columns.values()), local_device()), dim=1)
        return dict(zip(columns, collect(values_b, rows, num_rows).cpu().unbind(1), strict=True))

    def prepare_for_training_step(self) -> None:
        """See ``models.interface``."""
        for chunk in self.wrapped:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()

    @memory_of("training")
    def get_loss_and_metrics(
        self,
        batch: PreferenceBatch,
        objective: Objective,
        scored: Scored | None = None,
        *,
        share_prompts: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``models.interface``; ``share_prompts=False``, for comparisons, is that of ``log_probs``."""
        budget = self.cfg.micro_batch_tokens
        table, names = train_trees(self.wrapped, batch, objective, budget, scored=scored, share_prompts=share_prompts)
        loss, *metrics = table.unbind(1)
        return loss, dict(zip(names, metrics, strict=True))

    @memory_of("the update")
    def finish_training_step(self, num_prompts: int) -> tuple[float, float]:
        """See ``models.interface``."""
        finish_gradients(self.wrapped, num_prompts)
        self.schedule.step(increment=1)
        lr = self.optimizer.param_groups[0]["lr"]
        _, grad_norm, _ = self.optimizer.step()
        return float(lr), float(grad_norm)

    def schedule_state(self) -> dict[str, object]:
        """See ``models.interface``."""
        return self.schedule.state_dict()

    def load_schedule_state(self, state: dict[str, object]) -> None:
        """See ``models.interface``."""
        self.schedule.load_state_dict(state)

    def prepare_for_validation_step(self) -> None:
        """See ``models.interface``."""
        for chunk in self.wrapped:
            chunk.eval()

    def finish_validation_step(self) -> None:
        """See ``models.interface``."""
        for chunk in self.wrapped:
            chunk.train()

    def save_to(self, save_path: str | Path) -> None:
        """Write a ``.nemo`` file. Every rank must call this."""
        from nemo_mcpo.models.nemo_archive import HuggingFaceInNemoConnector

        HuggingFaceInNemoConnector().save_to(self, str(save_path))

    @classmethod
    def restore_from(cls, restore_path: str, **kwargs) -> MegatronGPTMCPOModel:
        """Read a ``.nemo`` file under the current parallel state. Every rank must call this."""
        from nemo_mcpo.models.nemo_archive import HuggingFaceInNemoConnector

        return super().restore_from(restore_path, save_restore_connector=HuggingFaceInNemoConnector(), **kwargs)

    def setup_training_data(self, train_data_config) -> None:
        """Unused: prompt trees come from ``nemo_mcpo.data``."""

    def setup_validation_data(self, val_data_config) -> None:
        """Unused: prompt trees come from ``nemo_mcpo.data``."""

    @classmethod
    def list_available_models(cls) -> list:
        """Return an empty list: no models are offered for download."""
        return []
