# SPDX-License-Identifier: Apache-2.0
"""Loads models that transformers runs, with the same reading of config.json as training.

    engine ``hf``, evaluation    AutoModelForCausalLM
    judge ``reward_model``       AutoModelForSequenceClassification

transformers initializes missing weights at random and ignores unknown ones. Here either is an error.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.checkpoint import check_directory, first_of, read_header, weight_files
from nemo_mcpo.models.huggingface.config import CONFIG_FILE, read_config, transformers_config

ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)
"""Exceptions that transformers raises for a directory that it cannot load."""


def load_model(
    auto_class: type,
    directory: str | Path,
    *,
    where: str,
    dtype: torch.dtype | str = torch.float32,
    without: tuple[str, ...] = (),
) -> PreTrainedModel:
    """Load a model on the CPU, in evaluation mode, with neutral generation settings.

    Args:
        auto_class: one of transformers' ``AutoModelFor…``.
        directory: a directory with config.json and safetensors weights.
        where: the configuration key that names the directory, for errors.
        dtype: dtype of the weights; ``"auto"`` for that of the files.
        without: prefixes of tensor names that the files may have although the model does not.

    Raises:
        CheckpointError: a file is missing or damaged, transformers rejects the model, or weights are missing or extra.
    """
    directory = Path(directory)
    check_directory(directory)
    config = transformers_config(read_config(directory), directory / CONFIG_FILE)
    for file in weight_files(directory):
        read_header(file)
    try:
        model, report = auto_class.from_pretrained(  # type: ignore[attr-defined]
            directory,
            config=config,
            dtype=dtype,
            generation_config=GenerationConfig(),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except ERRORS as error:
        raise CheckpointError(
            "transformers cannot load the model",
            where=f"{where}: {directory}",
            got=f"{type(error).__name__}: {error}"[:200],
            fix=f"use a complete directory that {auto_class.__name__} can load",
        ) from error
    _check_whole(report, f"{where}: {directory}", auto_class, without)
    return model.eval()


def _check_whole(report: dict, where: str, auto_class: type, without: tuple[str, ...]) -> None:
    """Raise CheckpointError for weights that are missing from the files or that the model does not have."""
    missing, unused = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    unused = [name for name in unused if not name.startswith(without)]
    problems = {"weights are missing": missing, "weights that the model does not have": unused}
    for what, names in problems.items():
        if names:
            raise CheckpointError(
                what,
                where=where,
                got=first_of(names),
                expected=f"exactly the weights of {auto_class.__name__}",
                fix="use a model of this kind, with the config.json that belongs to its weights",
            )
