# SPDX-License-Identifier: Apache-2.0
"""Write a training checkpoint as a Hugging Face directory (or a .nemo file), on CPU or GPU, with one process.

python scripts/export_model.py --checkpoint results/run --out results/run/huggingface
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.platform.command import run_command


def main(argv: Sequence[str]) -> None:
    """Load the checkpoint in one process, whatever layout saved it, and export it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint, or a log directory (the newest)")
    parser.add_argument("--out", type=Path, required=True, help="directory to write, or a file that ends with .nemo")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the initial model's")
    arguments = parser.parse_args(argv)
    from nemo_mcpo.models.export_checkpoint import export_checkpoint

    print(export_checkpoint(newest_checkpoint(arguments.checkpoint), arguments.out, arguments.dtype))


def newest_checkpoint(path: Path) -> Path:
    """``path`` itself when it is a checkpoint, else the newest one of that log directory."""
    from nemo_mcpo.algorithms.checkpointing import read_state
    from nemo_mcpo.models.pretrained import CHECKPOINT_MARK

    if (path / CHECKPOINT_MARK).exists():
        return path
    found = [mark.parent for mark in path.glob(f"checkpoints/*/{CHECKPOINT_MARK}") if mark.parent.suffix == ""]
    if not found:
        raise CheckpointError(
            "there is no complete checkpoint",
            where=str(path),
            expected=f"{CHECKPOINT_MARK} in it, or in checkpoints/*/ below it",
            cure="give a run's log directory or one of its checkpoints",
        )
    return max(found, key=lambda checkpoint: read_state(checkpoint).step)


if __name__ == "__main__":
    run_command(main)
