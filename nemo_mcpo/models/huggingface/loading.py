# SPDX-License-Identifier: Apache-2.0
"""Models that transformers runs: every place that loads one does so here, from the config.json that training reads.

    engine ``hf``, evaluation    AutoModelForCausalLM
    judge ``reward_model``       AutoModelForSequenceClassification

transformers fills weights that a file lacks with random numbers, and leaves out those that it has no place for. Here
the model is the file's, whole, or refused.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.checkpoint import check_directory, read_header, weight_files
from nemo_mcpo.models.huggingface.config import CONFIG_FILE, read_config, transformers_config

ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)
"""What transformers raises for a directory that it cannot load."""


def load_model(
    auto_class: type,
    directory: str | Path,
    *,
    where: str,
    dtype: torch.dtype | str = torch.float32,
    without: tuple[str, ...] = (),
) -> PreTrainedModel:
    """A model on the CPU, in evaluation mode, that generates by nothing but what each call says.

    Args:
        auto_class: one of transformers' ``AutoModelFor…``.
        directory: config.json and safetensors weights.
        where: the key that names the directory, for errors.
        dtype: of the weights; ``"auto"`` as they are stored.
        without: beginnings of the names of tensors that may stand in the files and are not of this model.

    Raises:
        CheckpointError: a file is missing or damaged, transformers refuses the model, or its weights are not whole.
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
            fix=f"give a complete directory that {auto_class.__name__} loads",
        ) from error
    _check_whole(report, f"{where}: {directory}", auto_class, without)
    return model.eval()


def _check_whole(report: dict, where: str, auto_class: type, without: tuple[str, ...]) -> None:
    """Refuse weights that were drawn at random, and files with more than the model."""
    missing, unused = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    unused = [name for name in unused if not name.startswith(without)]
    problems = {"the model's files lack weights": missing, "the model's files have weights that it has not": unused}
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                what,
                where=where,
                got=names[0] + more,
                expected=f"the weights of {auto_class.__name__}, no more and no fewer",
                fix="give a model of this kind, with the config.json that belongs to its weights",
            )
