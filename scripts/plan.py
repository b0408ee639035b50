# SPDX-License-Identifier: Apache-2.0
"""Plan a run before it is queued: memory a GPU, whether it fits, time, checkpoints; on any machine, in a second.

    python scripts/plan.py gpt_mcpo --gpus 8 --gpu A100-80 --model llama-3.1-8b model.tensor_model_parallel_size=2
    python scripts/plan.py gpt_mcpo --gpus 64 --gpu H100 pretrained_checkpoint.restore_from_path=DIR
    python scripts/plan.py --table          # the tables of docs/planning.md

The configuration and its overrides are those of the training commands. Of a model only config.json is read; --model
names a public one instead. A run that does not fit exits with 1 and a layout that does. Times are estimates.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.config import OnlineRunConfig, RunConfig, check_architecture
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.planning.gpus import GPUS, find_gpu
from nemo_mcpo.planning.plan import make_plan
from nemo_mcpo.planning.report import describe
from nemo_mcpo.planning.search import check_fits
from nemo_mcpo.planning.shapes import SHAPES, find_shape
from nemo_mcpo.planning.tables import markdown
from nemo_mcpo.planning.workload import MFU, WRITE_GBS, DataShape, Question
from nemo_mcpo.platform.command import load_run_config, run_command

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"
MODEL_KEY = "pretrained_checkpoint.restore_from_path"


def main(argv: Sequence[str]) -> None:
    arguments = _parse_arguments(argv)
    config_name, overrides = _split(arguments.words)
    if arguments.table:
        print(markdown(_config(config_name, overrides, "llama-3.1-8b", world_size=None)))
        return
    config = _config(config_name, overrides, arguments.model, world_size=arguments.gpus)
    architecture = _architecture(arguments.model, config)
    check_architecture(config, architecture)
    gpu, data = find_gpu(arguments.gpu), _data(arguments, config)
    plan = make_plan(config, Question(architecture, data, gpu, arguments.mfu, arguments.write_gbs), arguments.gpus)
    print(describe(plan))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(plan.as_dict(), indent=1) + "\n", encoding="utf-8")
    check_fits(plan, config)


def _config(config_name: str, overrides: list[str], model: str | None, world_size: int | None) -> RunConfig:
    """The checked configuration; a plan needs no file of prompts, and with ``model`` no directory of weights."""
    defaults = ["model.data.train=planned"]
    if model is not None:
        defaults.append(f"{MODEL_KEY}={model}")
    schema = OnlineRunConfig if "onmcpo" in config_name else RunConfig
    argv = ["--config-name", config_name, *defaults, *overrides]
    try:
        return load_run_config(argv, config_dir=CONF, config_name=config_name, world_size=world_size, schema=schema)
    except ConfigError as error:
        if error.where != MODEL_KEY or model is not None:
            raise
        cure = f"name a public model with --model, or set {MODEL_KEY}=DIR"
        raise ConfigError("no model to plan for", where=MODEL_KEY, cure=cure) from None


def _architecture(model: str | None, config: RunConfig) -> ModelArchitecture:
    if model is not None:
        return find_shape(model)
    from nemo_mcpo.models.pretrained import open_pretrained  # heavy: a name needs neither torch nor transformers

    return open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir).architecture


def _data(arguments: argparse.Namespace, config: RunConfig) -> DataShape:
    """Means of a prepared dataset, or what the flags say."""
    if arguments.prepared is None:
        candidates = min(arguments.candidates, config.model.data.max_candidates or arguments.candidates)
        return DataShape(arguments.prompts, arguments.prompt_length, arguments.completion_length, candidates)
    from nemo_mcpo.data.prepared import PreparedDataset

    dataset = PreparedDataset(arguments.prepared)
    return DataShape(
        prompts=len(dataset),
        prompt_length=float(dataset.prompt_lengths.mean()),
        completion_length=float(dataset.completion_lengths.mean()),
        candidates=float(dataset.num_completions.mean()) - 1,
        longest=int(dataset.tree_lengths.max()),
    )


def _split(words: list[str]) -> tuple[str, list[str]]:
    """The configuration's name, which may be left out, and the overrides."""
    if words and "=" not in words[0]:
        return words[0], words[1:]
    return "gpt_mcpo", words


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("not above 0")
    return number


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    data = DataShape()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="CONFIG KEY=VALUE", help="as for training (default: gpt_mcpo)")
    parser.add_argument("--gpus", type=int, default=8, help="default: 8")
    parser.add_argument("--gpu", default="A100-80", help=f"{', '.join(GPUS)} (default: A100-80)")
    parser.add_argument("--model", help=f"{', '.join(SHAPES)}; else pretrained_checkpoint.restore_from_path")
    parser.add_argument("--prepared", type=Path, help="directory of a prepared dataset: its prompts and lengths")
    parser.add_argument("--prompts", type=int, default=data.prompts, help="default: 183,000, as in Nectar")
    parser.add_argument("--prompt-length", type=_positive, default=data.prompt_length, help="mean, tokens")
    parser.add_argument("--completion-length", type=_positive, default=data.completion_length, help="mean, tokens")
    parser.add_argument("--candidates", type=int, default=int(data.candidates), help="beside the preferred answer")
    parser.add_argument("--mfu", type=_positive, default=MFU, help=f"share of the peak (default: {MFU})")
    parser.add_argument(
        "--write-gbs", type=_positive, default=WRITE_GBS, help=f"file system, GB/s for all (default: {WRITE_GBS:g})"
    )
    parser.add_argument("--table", action="store_true", help="print the tables of docs/planning.md instead")
    parser.add_argument("--json", type=Path, help="write the plan here")
    arguments = parser.parse_intermixed_args(list(argv))
    if arguments.gpus < 1:
        raise ConfigError("not a number of GPUs", where="--gpus", got=arguments.gpus, cure="give at least 1")
    return arguments


if __name__ == "__main__":
    run_command(main)
