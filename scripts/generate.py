# SPDX-License-Identifier: Apache-2.0
"""Samples a policy's own answers to the prompts of a data file, as a stage of an online run does; kill it any time.

    python scripts/generate.py --model DIR --data prompts.jsonl --format jsonl --out samples --cache-dir cache \\
        --max-tokens 512 --max-prompt-length 1024

The same command continues where it stopped. samples/complete.jsonl is there once every sample is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.platform.command import run_command
from nemo_mcpo.platform.report import render_facts


def main(argv: Sequence[str]) -> None:
    arguments = _parse_arguments(argv)
    # Heavy: --help and usage errors come before.
    from nemo_mcpo.data.prepare import prepare_dataset
    from nemo_mcpo.models.huggingface.hashing import hash_weights
    from nemo_mcpo.rollouts.generate import Plan, generate_samples
    from nemo_mcpo.rollouts.hf import HuggingFaceEngine
    from nemo_mcpo.rollouts.samples import Sampling
    from nemo_mcpo.rollouts.store import SampleStore

    started = time.monotonic()
    dataset = prepare_dataset(
        data=arguments.data,
        data_format=arguments.format,
        tokenizer_dir=arguments.model,
        vocab_size=None,
        max_prompt_length=arguments.max_prompt_length,
        max_length=arguments.max_prompt_length + arguments.max_tokens,
        drop_ranks=None,
        max_candidates=None,
        cache_dir=arguments.cache_dir,
        progress=True,
    )
    plan = Plan(arguments.segment, tuple(arguments.temperatures), arguments.samples, arguments.redraws)
    sampling = Sampling(arguments.max_tokens, arguments.top_p, arguments.seed)
    manifest = {
        "checkpoint": hash_weights(arguments.model),
        "prompts": dataset.fingerprint,
        "plan": [plan.segment, *plan.temperatures, plan.samples, plan.redraws],
        "sampling": [sampling.max_tokens, sampling.top_p, sampling.seed],
        "batch size": arguments.batch_size,
    }
    store = SampleStore(arguments.out, manifest)
    engine = HuggingFaceEngine(sampling, arguments.batch_size)
    engine.load(arguments.model)
    prompts = {tree.prompt_id: tree.prompt_tokens.tolist() for tree in map(dataset.__getitem__, range(len(dataset)))}
    generated = generate_samples(engine, store, prompts, plan, progress=True)
    engine.close()
    table = {
        "prompts": len(prompts),
        "samples": generated.samples,
        "drawn again": generated.redrawn,
        "left out, as equal to another": generated.repeated,
        "cut by max-tokens": generated.unfinished,
        "mean tokens": f"{generated.mean_tokens:.1f}",
        "seconds": f"{time.monotonic() - started:.1f}",
        "file": generated.path,
    }
    print(render_facts(table))


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hugging Face directory of the policy")
    parser.add_argument("--data", required=True, help="file whose prompts are answered")
    parser.add_argument("--format", required=True, choices=["nectar", "ultrafeedback", "jsonl", "tokens"])
    parser.add_argument("--out", type=Path, required=True, help="directory of the samples")
    parser.add_argument("--cache-dir", required=True, help="of prepared data")
    parser.add_argument("--max-prompt-length", type=int, required=True, help="tokens kept of a prompt, its last ones")
    parser.add_argument("--max-tokens", type=int, required=True, help="of an answer")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.6, 0.8, 1.0])
    parser.add_argument("--samples", type=int, default=2, help="at each temperature (default: 2)")
    parser.add_argument("--redraws", type=int, default=3, help="of an answer equal to another (default: 3)")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--segment", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
