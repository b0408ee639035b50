# SPDX-License-Identifier: Apache-2.0
"""One process of test_huggingface_parallel: import every model of a directory and export it again, in some layouts.

torchrun --nproc-per-node=2 huggingface_round_trip.py MODELS_DIRECTORY [--full-disk] name:tensor:pipeline:virtual ...
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from planned import each_layout

from nemo_mcpo.models.gpt import ParallelLayout, build_gpt
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.huggingface.export import export_model
from nemo_mcpo.models.huggingface.weights import load_weights


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("layouts", nargs="+")
    parser.add_argument("--full-disk", action="store_true")
    args = parser.parse_args()
    if args.full_disk:
        os.fsync = no_space
    layouts = {}
    for name, *sizes in (layout.split(":") for layout in args.layouts):
        tensor, pipeline, virtual = map(int, sizes)
        layouts[name] = ParallelLayout(tensor, pipeline, virtual if virtual > 1 else None)
    for name, layout in each_layout(layouts):
        round_trip(args.directory, name, layout)


def round_trip(directory: Path, layout_name: str, layout: ParallelLayout) -> None:
    for source in sorted((directory / "source").iterdir()):
        architecture = read_architecture(source)
        chunks = build_gpt(architecture, layout)
        for parameter in (parameter for chunk in chunks for parameter in chunk.parameters()):
            torch.nn.init.constant_(parameter, torch.nan)
        load_weights(source, chunks, architecture)
        # A tied output layer is never exported, so only its import can be checked.
        assert not any(parameter.isnan().any() for chunk in chunks for parameter in chunk.parameters())
        export_model(directory / layout_name / source.name, chunks, architecture, source, max_shard_bytes=50_000)


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


if __name__ == "__main__":
    main()
