# SPDX-License-Identifier: Apache-2.0
"""Benchmark of our plain DPO against TRL's DPOTrainer: same weights, prompts and token ids, in turns, in one run.

TRL uses cached reference log-probs (``precompute_ref_log_probs``) and the fastest of several batch sizes. Ours runs
with and without shared prompts. TRL is an optional dependency: ``pip install -e .[test]``.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.measure import (
    Measured,
    Spread,
    allocated_bytes,
    measure,
    peak_bytes,
    ratio,
    reset_peak,
    synchronize,
)
from benchmarks.workload import dpo_step
from nemo_mcpo.algorithms.negatives import ReferencedTrees, prune
from nemo_mcpo.config import RunConfig
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel
from nemo_mcpo.records import PreferenceBatch, PromptTree

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
"""Batch sizes to try for TRL; gradient accumulation makes up the rest of a step."""


def measure_peers(
    config: RunConfig, model: MegatronGPTMCPOModel, directory: str, trees: Sequence[PromptTree], steps: int
) -> dict[str, object]:
    """Measure seconds, prompts per second and, on a GPU, peak memory of TRL, plain DPO and DPO with shared prompts.

    TRL and ours are in memory at the same time: what the other one holds at rest is subtracted from a peak.
    """
    size = config.model.global_batch_size
    batches = [pairs(trees[first : first + size]) for first in range(0, len(trees) - size + 1, size)]
    dpo_step(config, model, batches[0], share_prompts=True)  # creates the optimizer's states
    our_bytes = allocated_bytes()

    def seconds_at(batch_size: int) -> float:
        try:
            return run_trl(config, directory, batches[:2], batch_size, 2, lambda batch: None)[-1].seconds
        except torch.OutOfMemoryError:
            return math.inf

    batch_size = min((candidate for candidate in BATCH_SIZES if size % candidate == 0), key=seconds_at)
    ours: dict[str, list[Measured]] = {"plain": [], "shared": []}

    their_bytes: list[int] = []

    def take_turns(batch: PreferenceBatch) -> None:
        their_bytes.append((allocated_bytes() or 0) - (our_bytes or 0))
        for name, share_prompts in (("plain", False), ("shared", True)):
            ours[name].append(measure(partial(dpo_step, config, model, batch, share_prompts)))

    theirs = run_trl(config, directory, batches, batch_size, steps + 1, take_turns)[1:]  # the first warms up
    measured = {"trl": theirs, **{name: runs[1:] for name, runs in ours.items()}}
    report: dict[str, object] = {
        "prompts_per_step": size,
        "steps": steps,
        "trl_batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "tokens_per_step": sum(tree.num_tokens for batch in batches for tree in batch.trees) / len(batches),
    }
    for name, runs in measured.items():
        report[f"{name}_seconds"] = Spread.of([one.seconds for one in runs]).as_dict()
        report[f"{name}_prompts_per_second"] = size / Spread.of([one.seconds for one in runs]).median
        if our_bytes is not None:
            of_the_other = our_bytes if name == "trl" else their_bytes[-1]
            report[f"{name}_peak_gigabytes"] = (max(one.peak_bytes for one in runs) - of_the_other) / 1e9
    for name in ours:
        report[f"{name}_speedup"] = ratio(theirs, measured[name]).as_dict()
    return report


def pairs(trees: Sequence[PromptTree]) -> PreferenceBatch:
    """Return the preferred completion and the last candidate of every tree, with reference log-probs of 0."""
    last = torch.tensor([[len(tree.completions) - 1] for tree in trees])
    return prune(trees, last, ReferencedTrees(trees, None).ref_logps_BK(trees))  # type: ignore[arg-type]


def run_trl(
    config: RunConfig,
    directory: str,
    batches: Sequence[PreferenceBatch],
    batch_size: int,
    steps: int,
    after_step: Callable[[PreferenceBatch], None],
) -> list[Measured]:
    """Run TRL over the batches in order, calling ``after_step`` with each step's batch; return its measurements."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
        from trl import DPOTrainer
    except ImportError as error:
        raise ConfigError("TRL is not installed", where="peer", got=error, fix="pip install -e .[test]") from error
    from datasets import Dataset

    measured: list[Measured] = []

    class Turns(TrainerCallback):
        started = 0.0

        def on_step_begin(self, args, state, control, **kwargs) -> None:
            reset_peak()
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs) -> None:
            synchronize()
            measured.append(Measured(time.perf_counter() - self.started, peak_bytes()))
            after_step(batches[(len(measured) - 1) % len(batches)])

    class TokenDPOTrainer(DPOTrainer):
        """Reads token ids written as text, so that both sides train on the same tokens."""

        @staticmethod
        def tokenize_row(features: dict[str, str], *args: Any, **kwargs: Any) -> dict[str, list[int]]:
            return {f"{name}_input_ids": [int(token) for token in features[name].split()] for name in SIDES}

        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    rows = [
        dict(zip(SIDES, (_ids(tree.prompt_tokens), *map(_ids, tree.completions)), strict=True))
        for batch in batches
        for tree in batch.trees
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = trl_settings(config, folder, batch_size, steps)
        # With bf16=True, TRL computes in bf16 but updates float32 weights, as ours does. It scores the reference in
        # float32, which the FlashAttention package does not support.
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
        trainer = TokenDPOTrainer(
            model=model,
            args=settings,
            processing_class=AutoTokenizer.from_pretrained(directory),
            train_dataset=Dataset.from_list(rows),
            callbacks=[Turns()],
        )
        trainer.train()
    return measured


def trl_settings(config: RunConfig, folder: str, batch_size: int, steps: int) -> Any:
    """Return TRL's configuration for the same work, without logging and saving."""
    from trl import DPOConfig

    return DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=config.model.global_batch_size // batch_size,
        max_steps=steps,
        learning_rate=config.model.optim.lr,
        beta=config.model.mcpo.beta,
        max_length=None,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=batch_size,
        use_cpu=not torch.cuda.is_available(),
        bf16=config.trainer.precision == "bf16",
        gradient_checkpointing=config.model.activations_checkpoint_granularity == "full",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


SIDES = ("prompt", "chosen", "rejected")


def _ids(tokens) -> str:
    return " ".join(map(str, tokens.tolist()))


def table(report: dict) -> str:
    headers = ("", "seconds per step", "prompts/s", "TRL's time / this", "peak, GB")
    widths = (34, 22, 11, 20, 0)
    lines = ["".join(header.ljust(width) for header, width in zip(headers, widths, strict=True))]
    names = {
        "trl": f"TRL DPOTrainer, batches of {report['trl_batch_size']}",
        "plain": "DPO, every sequence on its own",
        "shared": "DPO, shared prompts",
    }
    for name, title in names.items():
        speedup = str(Spread(**report[f"{name}_speedup"])) if f"{name}_speedup" in report else ""
        seconds = str(Spread(**report[f"{name}_seconds"]))
        peak = f"{report[f'{name}_peak_gigabytes']:.1f}" if f"{name}_peak_gigabytes" in report else ""
        line = f"{title:<34}{seconds:<22}{report[f'{name}_prompts_per_second']:<11.2f}{speedup:<20}{peak}"
        lines.append(line.rstrip())
    return "\n".join(lines)
