# SPDX-License-Identifier: Apache-2.0
"""Benchmark of numerical parity: log-probs in packed trees against transformers' on separate sequences.

Both compute in float32. The distance of each from transformers in float64 tells whose rounding causes a difference.
The softmax and sum of transformers' logits are always in float64, because its float32 ``log_softmax`` over a
vocabulary of 49,152 was off by up to 6e-3 nats per sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.workload import mean_lengths
from nemo_mcpo.models.huggingface.loading import load_model
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel
from nemo_mcpo.platform.distributed import is_rank_zero
from nemo_mcpo.records import PromptTree

PAIRS = {
    "ours_theirs": "ours - transformers",
    "ours_float64": "ours - transformers in float64",
    "theirs_float64": "transformers - transformers in float64",
}
"""Compared pairs -> their titles in the table."""


def measure_parity(model: MegatronGPTMCPOModel, directory: str, trees: Sequence[PromptTree]) -> dict[str, float]:
    """Return absolute differences in nats per sequence; an empty dict on all ranks but the first."""
    rows = zip(model.log_probs(trees).tolist(), trees, strict=True)
    ours = [value for row, tree in rows for value in row[: len(tree.completions)]]
    if not is_rank_zero():
        return {}
    peer = load_model(AutoModelForCausalLM, directory, where="--model")
    theirs = [value for tree in trees for value in transformers_log_probs(peer, tree)]
    peer.double()
    exact = [value for tree in trees for value in transformers_log_probs(peer, tree)]
    return {
        "prompts": len(trees),
        "sequences": len(ours),
        **mean_lengths(trees),
        **_differences("ours_theirs", ours, theirs),
        **_differences("ours_float64", ours, exact),
        **_differences("theirs_float64", theirs, exact),
    }


@torch.inference_mode()
def transformers_log_probs(model: PreTrainedModel, tree: PromptTree) -> Iterator[float]:
    """Yield the log-prob (nats) of every completion of a tree, each from a separate forward pass."""
    for completion in tree.completions:
        tokens_S = torch.tensor([*tree.prompt_tokens.tolist(), *completion.tolist()])
        first = len(tree.prompt_tokens)
        logits_TV = model(tokens_S[None]).logits[0, first - 1 : -1].double()
        yield float(logits_TV.log_softmax(-1).gather(-1, tokens_S[first:, None]).sum())


def _differences(name: str, one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    values = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return {f"{name}_largest": max(values), f"{name}_mean": sum(values) / len(values)}


def table(report: dict[str, float]) -> str:
    lengths = f"P{report['prompt_length']:.0f} C{report['completion_length']:.0f}"
    lines = [f"{report['sequences']} sequences of {report['prompts']} prompts ({lengths}): largest and mean, nats"]
    for name, text in PAIRS.items():
        lines.append(f"{text:40} {report[f'{name}_largest']:.1e} {report[f'{name}_mean']:.1e}")
    return "\n".join(lines)
