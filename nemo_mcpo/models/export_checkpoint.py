# SPDX-License-Identifier: Apache-2.0
"""Exports a training checkpoint as a Hugging Face directory or a ``.nemo`` file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.checkpoint_files import CHECKPOINT_MARK, finished_checkpoints
from nemo_mcpo.models.huggingface.export import export_model
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel
from nemo_mcpo.models.pretrained import Pretrained, open_pretrained
from nemo_mcpo.platform.distributed import initialize_parallel, shut_down


def export_checkpoint(checkpoint: Path, out: Path, dtype: str | None) -> Path:
    """Load ``checkpoint`` in one process, write it to ``out``, and return ``out``.

    Args:
        checkpoint: a checkpoint, or a log directory, whose newest checkpoint is used.
        out: a directory, or a file name that ends with ``.nemo``.
        dtype: dtype of the written weights; by default that of the initial model.
    """
    if not finished_checkpoints(checkpoint) and not (checkpoint / CHECKPOINT_MARK).exists():
        raise CheckpointError(
            "no complete training checkpoint found",
            where=str(checkpoint),
            expected=f"{CHECKPOINT_MARK} here or in checkpoints/*/",
            fix="pass a run's log directory or one of its checkpoints",
        )
    pretrained = open_pretrained(str(checkpoint), cache_dir=str(out.parent))
    return export_pretrained(pretrained, out, dtype)


def export_pretrained(pretrained: Pretrained, out: Path, dtype: str | None = None) -> Path:
    """Do the same for any model that a run can start from, including a Hugging Face directory.

    The result has everything that inference servers need.
    """
    initialize_parallel(tensor_parallel=1, pipeline_parallel=1, virtual_pipeline_parallel=None, seed=0)
    config = {
        "architecture": asdict(pretrained.architecture),
        "precision": trained_precision(pretrained),
        "micro_batch_tokens": 4096,
        "scoring_tokens": 4096,
        "reuse_scoring": False,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "virtual_pipeline_model_parallel_size": None,
        "sequence_parallel": False,
        "activations_checkpoint_granularity": None,
        "transformer_impl": "local",
        "attention_backend": "auto",
        "fp8": None,
        "fp8_recipe": "tensorwise",
        "scoring_fp8": False,
    }
    model = MegatronGPTMCPOModel(OmegaConf.create(config))
    model.load_pretrained(pretrained)
    if out.suffix == ".nemo":
        model.save_to(out)
    else:
        export_model(out, model.chunks, model.architecture, source_dir=pretrained.files, dtype=dtype)
    shut_down()
    return out


def trained_precision(pretrained: Pretrained) -> str:
    """Return the precision of the run that saved the model, or of its files.

    The export loads it in this precision, so that nothing is rounded before the conversion to the export's own dtype.
    """
    if not pretrained.is_distributed:
        return "bf16" if pretrained.architecture.dtype == "bfloat16" else "32"
    state = json.loads((pretrained.weights / CHECKPOINT_MARK).read_text())
    return state["identity"]["trainer.precision"]
