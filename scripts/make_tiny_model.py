# SPDX-License-Identifier: Apache-2.0
"""Make a small random model with a tokenizer trained on your data, as a Hugging Face directory.

python scripts/make_tiny_model.py --data prompts.jsonl --size 25m --out models/tiny --seed 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.huggingface.config import DTYPES
from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.models.huggingface.tiny import SIZES, make_tiny_model
from nemo_mcpo.platform.command import run_command


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="text to train the tokenizer on: .parquet, .jsonl, .json or plain text",
    )
    parser.add_argument("--size", choices=SIZES, required=True, help="approximate number of parameters")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, required=True, help="seed of the random weights")
    parser.add_argument("--family", choices=FAMILIES, default="llama")
    parser.add_argument("--vocab-size", type=int, help="largest number of tokens (default: that of the size)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="dtype of the weights on disk (default: float32)"
    )
    args = parser.parse_args(argv)
    architecture = make_tiny_model(args.data, args.out, args.size, args.seed, args.family, args.vocab_size, args.dtype)
    print(
        f"{args.out}: {architecture.num_parameters / 1e6:.1f}M parameters, {architecture.num_layers} layers, "
        f"{architecture.vocab_size} tokens, weights {hash_weights(args.out)}"
    )


if __name__ == "__main__":
    run_command(main)
