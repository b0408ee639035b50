# SPDX-License-Identifier: Apache-2.0
"""Export a training checkpoint as a Hugging Face directory or a .nemo file, on CPU or GPU, in one process.

python scripts/export_model.py --checkpoint results/run --out results/run/huggingface
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.platform.command import run_command


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="a checkpoint, or a log directory (its newest checkpoint)"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write, or a file name ending in .nemo")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the initial model's")
    arguments = parser.parse_args(argv)
    from nemo_mcpo.models.export_checkpoint import export_checkpoint

    print(export_checkpoint(arguments.checkpoint, arguments.out, arguments.dtype))


if __name__ == "__main__":
    run_command(main)
