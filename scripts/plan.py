# SPDX-License-Identifier: Apache-2.0
"""Plan a run before it is queued: memory per GPU, whether it fits, time, checkpoints; on any machine, in seconds.

    python scripts/plan.py gpt_mcpo --gpus 8 --gpu A100-80 --model llama-3.1-8b model.tensor_model_parallel_size=2
    python scripts/plan.py gpt_mcpo --gpus 64 --gpu H100 pretrained_checkpoint.restore_from_path=DIR
    python scripts/plan.py --table          # the tables of docs/planning.md

Configuration, overrides, --config-path and --config-name are those of the training commands. Only a model's
config.json is read; --model names a public model instead. Times are estimates.

Exit codes: 0, the run fits. 1, it does not fit, and the error names a layout that does; or something else failed. 2, a
flag or the configuration is invalid.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from nemo_mcpo.algorithms.configuration import checked_config
from nemo_mcpo.config import OnlineRunConfig, RunConfig
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.planning.data_shape import DataShape, check_data
from nemo_mcpo.planning.gpus import GPUS, GPUS_PER_NODE
from nemo_mcpo.planning.plan import Plan, make_plan
from nemo_mcpo.planning.report import describe
from nemo_mcpo.planning.search import check_fits, check_layout
from nemo_mcpo.planning.shapes import SHAPES
from nemo_mcpo.planning.tables import markdown
from nemo_mcpo.planning.workload import HFU, WRITE_GBS, Question
from nemo_mcpo.platform.command import compose_config, run_command

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"
MODEL_KEY = "pretrained_checkpoint.restore_from_path"
DATA_FLAGS = ("prompts", "prompt_length", "completion_length", "candidates")
TABLE_IGNORES = ("gpus", "gpu", "model", "prepared", *DATA_FLAGS, "hfu", "write_gbs", "json")

Choice = TypeVar("Choice")


def main(argv: Sequence[str]) -> None:
    arguments = _parse_arguments(argv)
    if arguments.table:
        _refuse_beside("--table", arguments, TABLE_IGNORES)
        print(markdown(_config(arguments, "llama-3.1-8b")))
        return
    config = _config(arguments, arguments.model)
    data = _data(arguments, config)
    gpu = _chosen(GPUS, "--gpu", arguments.gpu or "A100-80", "choose a listed GPU")
    hfu = _limited(arguments.hfu, HFU, "--hfu", 1)
    write_gbs = _limited(arguments.write_gbs, WRITE_GBS, "--write-gbs", 1e6)
    question = Question(_architecture(arguments.model, config), data, gpu, hfu, write_gbs)
    num_gpus = _num_gpus(arguments.gpus, config)
    check_layout(config, question, num_gpus)
    plan = make_plan(config, question, num_gpus)
    print(describe(plan))
    if arguments.json is not None:
        _write(plan, arguments.json)
    check_fits(plan, config)


def _config(arguments: argparse.Namespace, model: str | None) -> RunConfig:
    """Return the checked configuration. A plan needs no prompts, no judge, and with ``model`` no model directory."""
    words = list(arguments.words)
    name = words.pop(0) if words and "=" not in words[0] else "gpt_mcpo"
    argv = ["--config-name", arguments.config_name or name, "model.data.train=planned"]
    argv += ["--config-path", str(arguments.config_path)] if arguments.config_path else []
    argv += [f"{MODEL_KEY}={model}"] if model is not None else []
    raw = compose_config([*argv, *words], config_dir=CONF, config_name=name)
    schema = OnlineRunConfig if "onmcpo" in raw else RunConfig
    if schema is OnlineRunConfig and raw["judge"]["server"]["model"] is None:
        raw["judge"]["server"]["model"] = "planned"
    try:
        return checked_config(raw, None, schema)
    except ConfigError as error:
        if error.where != MODEL_KEY or model is not None:
            raise
        fix = f"name a public model with --model, or set {MODEL_KEY}=DIR"
        raise ConfigError("no model to plan for", where=MODEL_KEY, fix=fix) from None


def _architecture(model: str | None, config: RunConfig) -> ModelArchitecture:
    if model is not None:
        return _chosen(
            SHAPES, "--model", model, f"choose a listed model, or set {MODEL_KEY}=DIR, a directory with config.json"
        )
    from nemo_mcpo.models.pretrained import open_pretrained  # heavy: --model needs neither torch nor transformers

    return open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir).architecture


def _data(arguments: argparse.Namespace, config: RunConfig) -> DataShape:
    """Return the shape of a prepared dataset, or that given by the flags."""
    if arguments.prepared is not None:
        _refuse_beside("--prepared", arguments, DATA_FLAGS)
        data = DataShape.from_prepared(arguments.prepared, config)
    else:
        data = DataShape.from_config(config, **{name: getattr(arguments, name) for name in DATA_FLAGS})
    check_data(data, config)
    return data


def _num_gpus(given: int | None, config: RunConfig) -> int:
    """Return ``--gpus``, or the configuration's number of GPUs; ``trainer.devices=auto`` means 8 per node."""
    if given is not None and given < 1:
        raise ConfigError("not a number of GPUs", where="--gpus", got=given, fix="give at least 1")
    trainer = config.trainer
    configured = trainer.num_nodes * (GPUS_PER_NODE if trainer.devices == "auto" else trainer.devices)
    return configured if given is None else given


def _write(plan: Plan, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plan.as_dict(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        got = f"{path}: {error.strerror}"
        raise ConfigError("cannot write the file", where="--json", got=got, fix="name a writable file") from None


def _chosen(table: Mapping[str, Choice], flag: str, name: str, fix: str) -> Choice:
    if name not in table:
        raise ConfigError("unknown name", where=flag, got=name, expected=f"one of {', '.join(table)}", fix=fix)
    return table[name]


def _limited(given: float | None, default: float, flag: str, most: float) -> float:
    number = default if given is None else given
    if not 0 < number <= most:
        expected = f"above 0, at most {most:g}"
        raise ConfigError("out of range", where=flag, got=number, expected=expected, fix=f"default: {default:g}")
    return number


def _refuse_beside(flag: str, arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ConfigError if any of the flags ``names`` was given beside ``flag``, which would ignore them."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) is not None]
    if given:
        raise ConfigError(f"would be ignored with {flag}", where=" ".join(given), fix=f"remove {flag}, or these flags")


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    data = DataShape()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG KEY=VALUE", help="as for the training commands (default: gpt_mcpo)"
    )
    parser.add_argument("--config-path", "-cp", type=Path, help="directory of YAML files (default: examples/conf)")
    parser.add_argument("--config-name", "-cn", help="name of the configuration, instead of CONFIG")
    parser.add_argument("--gpus", type=int, help="default: trainer.num_nodes x trainer.devices (auto: 8)")
    parser.add_argument("--gpu", help=f"{', '.join(GPUS)} (default: A100-80)")
    parser.add_argument("--model", help=f"{', '.join(SHAPES)} (default: {MODEL_KEY})")
    parser.add_argument(
        "--prepared", type=Path, help="prepared dataset to take the number of prompts and the lengths from"
    )
    parser.add_argument("--prompts", type=int, help=f"number of prompts (default: {data.prompts:,}, as in Nectar)")
    parser.add_argument("--prompt-length", type=float, help=f"mean tokens per prompt (default: {data.prompt_length})")
    parser.add_argument(
        "--completion-length", type=float, help=f"mean tokens per completion (default: {data.completion_length})"
    )
    parser.add_argument(
        "--candidates",
        type=int,
        help=f"completions per prompt, without the preferred one (default: {data.candidates}; online: temperatures x "
        "samples - 1)",
    )
    parser.add_argument(
        "--hfu", type=float, help=f"share of its peak that a busy GPU reaches, recompute included (default: {HFU})"
    )
    parser.add_argument(
        "--write-gbs", type=float, help=f"write bandwidth of the file system in total, GB/s (default: {WRITE_GBS:g})"
    )
    parser.add_argument("--table", action="store_true", help="print the tables of docs/planning.md instead")
    parser.add_argument("--json", type=Path, help="write the plan to this file")
    return parser.parse_intermixed_args(list(argv))


if __name__ == "__main__":
    run_command(main)
