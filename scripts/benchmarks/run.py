# SPDX-License-Identifier: Apache-2.0
"""Runs the subcommands of ``scripts/benchmark.py``: one function each, from checked flags to a table and reports.

Only the first rank returns reports.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import attention, curve, head, parity, peer, profile, scaling, step, subsets
from benchmarks.workload import MemoryTrees, Shape, build_model, synthetic_trees
from nemo_mcpo.algorithms.run import start_processes
from nemo_mcpo.algorithms.run_data import open_dataset
from nemo_mcpo.config import RunConfig
from nemo_mcpo.config.schema import changed
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.huggingface.tiny import SIZES, make_tiny_model
from nemo_mcpo.models.megatron_gpt_mcpo_model import DTYPES, MegatronGPTMCPOModel
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.platform.distributed import is_rank_zero, on_rank_zero, shut_down
from nemo_mcpo.records import PromptTree

Measure = Callable[[RunConfig, MegatronGPTMCPOModel, Sequence[PromptTree], int], dict]
Table = Callable[[Sequence[dict]], str]


def _each_workload(config: RunConfig, arguments: Namespace, measure: Measure, table: Table) -> list[dict]:
    if not arguments.shape and not arguments.data:
        raise ConfigError("nothing to measure", where="--shape", fix="give --shape 250x250, or --data FILE")
    shapes = [Shape.parse(text) for text in arguments.shape]
    reports: list[dict] = []
    with _started(config, arguments) as (config, model):
        for trees in _workloads(config, arguments, shapes, model.architecture.vocab_size):
            before = len(table(reports).splitlines()) if reports else 0
            reports.append(measure(config, model, trees, arguments.steps))
            if is_rank_zero():  # print only the table's new lines
                print("\n".join(table(reports).splitlines()[before:]), flush=True)
        return reports if is_rank_zero() else []


run_step = partial(_each_workload, measure=step.measure_steps, table=step.table)
run_profile = partial(_each_workload, measure=profile.profile_steps, table=profile.table)


def run_scaling(config: RunConfig, arguments: Namespace) -> list[dict]:
    """Measure in one process; ``measure_layouts`` measures two."""
    reports = []
    with _started(config, arguments) as (config, model):
        for report in scaling.measure_cases(config, model, scaling.CASES, arguments.steps):
            reports.append(report)
            lines = scaling.table(reports).splitlines()
            print("\n".join(lines if len(reports) == 1 else lines[-1:]), flush=True)
    line = scaling.cost_of_a_candidate(reports)
    print(
        f"a candidate of 250 tokens: {line['seconds_per_candidate']:.3f} s, the rest {line['seconds_without']:.3f} s, "
        f"R² = {line['r_squared']:.4f}"
    )
    return [*reports, {"varies": "L, straight line", **line}]


def run_peer(config: RunConfig, arguments: Namespace) -> list[dict]:
    _check_data(arguments)
    with _started(config, arguments) as (config, model):
        [trees] = _workloads(config, arguments, [], model.architecture.vocab_size)
        directory = config.pretrained_checkpoint.restore_from_path
        report = peer.measure_peers(config, model, directory, trees, arguments.steps)
        print(peer.table(report))
        return [report]


def run_parity(config: RunConfig, arguments: Namespace) -> list[dict]:
    _check_data(arguments)
    with _started(config, arguments) as (config, model):
        [trees] = _workloads(config, arguments, [], model.architecture.vocab_size)
        directory = config.pretrained_checkpoint.restore_from_path
        report = parity.measure_parity(model, directory, trees[: arguments.prompts])
        if report:
            print(parity.table(report))
        return [report] if report else []


def run_subsets(config: RunConfig, arguments: Namespace) -> list[dict]:
    """Run subcommand ``subsets`` in one process."""
    _check_data(arguments)
    if arguments.run is None:
        raise ConfigError("no run", where="--run", fix="give the log directory of a run that keeps its checkpoints")
    with _started(config, arguments) as (config, model):
        [trees] = _workloads(config, arguments, [], model.architecture.vocab_size)
        some, cache_dir = trees[: arguments.prompts], config.model.data.cache_dir
        reports = subsets.measure_subsets(model, some, arguments.run, cache_dir)
    print(subsets.table(reports))
    return reports


def run_curve(config: RunConfig, arguments: Namespace) -> list[dict]:
    """Measure training runs, each in a separate process."""
    _check_data(arguments)
    with tempfile.TemporaryDirectory() as folder:
        directory = _model_directory(arguments.model, arguments.data, Path(folder))
        keys = [*arguments.keys, f"pretrained_checkpoint.restore_from_path={directory}"]
        keys.append(f"model.data.cache_dir={folder}")
        report = curve.measure_curves(arguments.train, keys, Path(folder), arguments.steps)
    print(curve.table(report))
    return [report]


def run_attention(config: RunConfig, arguments: Namespace) -> list[dict]:
    shapes = [Shape.parse(text) for text in arguments.shape or ["250x250", "121x288", "1000x1000"]]
    architecture = SIZES[_known_size(arguments.model)]
    dtype = DTYPES[config.trainer.precision]
    reports = [
        attention.measure_backends(architecture, shape, 1 + arguments.candidates, dtype, arguments.steps)
        for shape in shapes
    ]
    print(attention.table(reports))
    return reports


def run_head(config: RunConfig, arguments: Namespace) -> list[dict]:
    start_processes(config)
    dtype = DTYPES[config.trainer.precision]
    report = head.measure_head(arguments.positions, arguments.vocabulary, arguments.hidden, dtype, full=arguments.full)
    print(head.table(report))
    shut_down()
    return [report]


def _check_data(arguments: Namespace) -> None:
    if not arguments.data:
        raise ConfigError("no data", where="--data", fix="give a file of preferences")


@contextmanager
def _started(config: RunConfig, arguments: Namespace) -> Iterator[tuple[RunConfig, MegatronGPTMCPOModel]]:
    """Start the processes; yield the configuration with the model's directory, if any, and a model that can train."""
    start_processes(config)
    with tempfile.TemporaryDirectory() as folder:
        directory = on_rank_zero(lambda: _model_directory(arguments.model, arguments.data, Path(folder)))
        if directory is not None:
            config = changed(config, {"pretrained_checkpoint": {"restore_from_path": directory}})
        yield config, build_model(config, None if directory else arguments.model)
    shut_down()


def _model_directory(model: str, data: str | None, folder: Path) -> str | None:
    """Return the given directory or, for a named size and a real file, a new model with a tokenizer for the file."""
    if Path(model).exists():
        return model
    _known_size(model)
    if data is None:
        return None
    make_tiny_model(data, folder / "model", model, seed=1)
    return str(folder / "model")


def _workloads(config: RunConfig, arguments: Namespace, shapes: list[Shape], vocab_size: int) -> Iterator[MemoryTrees]:
    """Yield the trees of each shape, then those of the file."""
    size = config.model.global_batch_size
    for shape in shapes:
        yield synthetic_trees(shape, size, 1 + arguments.candidates, vocab_size, config.model.seed)
    if arguments.data:
        pretrained = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
        dataset = open_dataset(config, pretrained, arguments.data)
        count = min(len(dataset), size * (arguments.steps + 1))
        yield MemoryTrees(dataset[index] for index in range(count))


def _known_size(model: str) -> str:
    if model not in SIZES:
        expected = f"a Hugging Face directory, or one of {', '.join(SIZES)}"
        raise ConfigError("no such model", where="--model", got=model, expected=expected, fix="check the path")
    return model
