# SPDX-License-Identifier: Apache-2.0
"""Benchmark of a step of MC-PO against a step of plain DPO on the same prompts, in turns, in one run.

Plain DPO computes every sequence separately, with cached reference log-probs and the same engine and optimizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.measure import Measured, Spread, device_name, interleave, ratio
from benchmarks.workload import build_trainer, dpo_step, mean_lengths, step_cost, train_step
from nemo_mcpo.algorithms.negatives import prune
from nemo_mcpo.config import RunConfig
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel
from nemo_mcpo.planning.cost_model import first_completions
from nemo_mcpo.planning.gpus import peak_flops
from nemo_mcpo.records import PromptTree


def measure_steps(
    config: RunConfig, model: MegatronGPTMCPOModel, trees: Sequence[PromptTree], steps: int
) -> dict[str, object]:
    """Measure times, tokens and memory of both on ``trees``, one global batch per step. Every rank calls this."""
    trainer = build_trainer(config, model, trees)
    size = config.model.global_batch_size

    def plain_dpo_step() -> None:
        places = trainer.stream.take(trainer.consumed_prompts - size, size)  # those of the preceding MC-PO step
        batch_trees = [trees[index] for _, index in places]
        batch_trees = [batch_trees[row] for row in model.share([_as_long_as_its_pair(tree) for tree in batch_trees])]
        first = torch.ones(len(batch_trees), 1, dtype=torch.long)
        batch = prune(batch_trees, first, trainer.train.ref_logps_BK(batch_trees))
        dpo_step(config, model, batch, share_prompts=False, num_prompts=size)

    measured = interleave({"mcpo": partial(train_step, trainer), "plain_dpo": plain_dpo_step}, steps)
    return _report(config, model, trees, measured)


def _as_long_as_its_pair(tree: PromptTree) -> PromptTree:
    """Return a tree with as many tokens as the first two completions with a prompt each."""
    return dataclasses.replace(first_completions(tree, 2), prompt_tokens=np.tile(tree.prompt_tokens, 2))


def _report(
    config: RunConfig,
    model: MegatronGPTMCPOModel,
    trees: Sequence[PromptTree],
    measured: dict[str, list[Measured]],
) -> dict[str, object]:
    """Build the report. Averages are over all trees; one step takes ``global_batch_size`` of them."""
    size, num_negatives = config.model.global_batch_size, config.model.mcpo.num_negatives
    cost, scored = step_cost(model), [first_completions(tree, _num_scored(config, tree)) for tree in trees]
    flops = {
        "mcpo": cost.mcpo(scored, num_negatives) * size / len(trees),
        "plain_dpo": cost.plain_dpo(trees) * size / len(trees),
    }
    seconds = {name: Spread.of([one.seconds for one in runs]) for name, runs in measured.items()}
    report: dict[str, object] = {
        **mean_lengths(trees),
        "candidates": sum(len(tree.completions) for tree in trees) / len(trees) - 1,
        "scored": sum(len(tree.completions) for tree in scored) / len(trees) - 1,
        "negatives": num_negatives,
        "prompts_per_step": size,
        "recompute": model.layout.recompute,
        "reuse_scoring": model.recording is not None,
        "steps": len(measured["mcpo"]),
        "ratio": ratio(measured["mcpo"], measured["plain_dpo"]).as_dict(),
        "predicted_ratio": flops["mcpo"] / flops["plain_dpo"],
        "processes": dist.get_world_size(),
        "threads": torch.get_num_threads(),
        "device": device_name(),
    }
    peak = peak_flops(str(report["device"]))
    # MFU counts the work that the model needs, without recompute.
    needed = cost.useful()
    useful = {"mcpo": needed.mcpo(scored, num_negatives), "plain_dpo": needed.plain_dpo(trees)}
    for name, spread in seconds.items():
        report[f"{name}_seconds"] = spread.median
        report[f"{name}_seconds_spread"] = spread.as_dict()
        report[f"{name}_prompts_per_second"] = size / spread.median
        report[f"{name}_flops_per_second"] = flops[name] / spread.median
        useful_per_second = useful[name] * size / len(trees) / spread.median
        report[f"{name}_mfu"] = useful_per_second / (peak * dist.get_world_size()) if peak else None
        report[f"{name}_peak_gigabytes"] = max(one.peak_bytes for one in measured[name]) / 1e9
    report["mcpo_tokens"] = sum(tree.num_tokens for tree in scored) * size / len(trees)
    return report


def _num_scored(config: RunConfig, tree: PromptTree) -> int:
    """The preferred completion and the candidates that a step scores; the first ones stand for those drawn."""
    return 1 + (config.model.mcpo.scored_candidates or len(tree.completions))


def table(reports: Sequence[dict]) -> str:
    """Format the reports for people, one line each."""
    lines = [
        ("shape", "recompute", "plain DPO, s", "MC-PO, s", "ratio", "predicted", "peak, GB"),
        *(
            (
                "P{prompt_length:.0f} C{completion_length:.0f} L{candidates:.0f} c{scored:.0f}".format(**one),
                one["recompute"],
                f"{one['plain_dpo_seconds']:.2f}",
                f"{one['mcpo_seconds']:.2f}",
                str(Spread(**one["ratio"])),
                f"{one['predicted_ratio']:.2f}",
                f"{one['plain_dpo_peak_gigabytes']:.1f} / {one['mcpo_peak_gigabytes']:.1f}",
            )
            for one in reports
        ),
    ]
    widths = (16, 11, 13, 10, 20, 11, 12)
    return "\n".join("".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
