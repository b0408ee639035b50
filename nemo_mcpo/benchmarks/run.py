# SPDX-License-Identifier: Apache-2.0
"""From checked flags to a table and reports: one function a subcommand of ``scripts/benchmark.py``."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from nemo_mcpo.algorithms.run import open_dataset
from nemo_mcpo.benchmarks.step import measure_steps, table
from nemo_mcpo.benchmarks.workload import MemoryTrees, Shape, build_model, synthetic_trees
from nemo_mcpo.config import RunConfig
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.huggingface.tiny import SIZES, make_tiny_model
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.platform.distributed import initialize_parallel, is_rank_zero, on_rank_zero, shut_down


def run_step(config: RunConfig, arguments: Namespace) -> list[dict]:
    """Subcommand ``step``; the reports are empty on every rank but the first."""
    if not arguments.shape and not arguments.data:
        raise ConfigError("nothing to measure", where="--shape", cure="give --shape 250x250, or --data FILE")
    shapes = [Shape.parse(text) for text in arguments.shape]
    _start(config)
    with tempfile.TemporaryDirectory() as folder:
        directory = on_rank_zero(lambda: _model_directory(arguments.model, arguments.data, Path(folder)))
        if directory is not None:
            pretrained_checkpoint = config.pretrained_checkpoint.model_copy(update={"restore_from_path": directory})
            config = config.model_copy(update={"pretrained_checkpoint": pretrained_checkpoint})
        model = build_model(config, None if directory else arguments.model)
        reports = []
        for trees in _workloads(config, arguments, shapes, model.architecture.vocab_size):
            reports.append(measure_steps(config, model, trees, arguments.steps))
            if is_rank_zero():
                print(table(reports[-1:]) if len(reports) == 1 else table(reports[-1:]).splitlines()[1], flush=True)
    first = is_rank_zero()
    shut_down()
    return reports if first else []


def _start(config: RunConfig) -> None:
    settings = config.model
    initialize_parallel(
        tensor_parallel=settings.tensor_model_parallel_size,
        pipeline_parallel=settings.pipeline_model_parallel_size,
        virtual_pipeline_parallel=settings.virtual_pipeline_model_parallel_size,
        seed=settings.seed,
    )


def _model_directory(model: str, data: str | None, folder: Path) -> str | None:
    """A model directory: the given one, or for a real file one of a named size with a tokenizer made for the file."""
    if Path(model).exists():
        return model
    if model not in SIZES:
        expected = f"a Hugging Face directory, or one of {', '.join(SIZES)}"
        raise ConfigError("no such model", where="--model", got=model, expected=expected, cure="check the path")
    if data is None:
        return None
    make_tiny_model(data, folder / "model", model, seed=1)
    return str(folder / "model")


def _workloads(config: RunConfig, arguments: Namespace, shapes: list[Shape], vocab_size: int) -> Iterator[MemoryTrees]:
    """Trees of each shape, then those of the file."""
    size = config.model.global_batch_size
    for shape in shapes:
        yield synthetic_trees(shape, size, 1 + arguments.candidates, vocab_size, config.model.seed)
    if arguments.data:
        pretrained = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
        dataset = open_dataset(config, pretrained, arguments.data)
        count = min(len(dataset), size * (arguments.steps + 1))
        yield MemoryTrees(dataset[index] for index in range(count))
