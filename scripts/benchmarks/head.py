# SPDX-License-Identifier: Apache-2.0
"""Benchmark of the log-prob head: time and memory, against logits of the whole row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import measure
from nemo_mcpo.models.log_probs import completion_log_probs
from nemo_mcpo.platform.distributed import local_device


def measure_head(
    positions: int, vocab_size: int, hidden_size: int, dtype: torch.dtype, *, full: bool
) -> dict[str, object]:
    """Measure the forward and backward pass of the head and, if ``full``, of logits of the whole row.

    ``extra_bytes`` is the peak above the memory in use before, without the gradients that any head returns.

    Args:
        dtype: dtype of hidden states and weight; logits are float32.
        full: also measure full logits, which take several times ``positions × vocab_size × 4`` bytes.
    """
    hidden = torch.randn(positions, 1, hidden_size, device=local_device(), dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab_size, hidden_size, device=local_device()).mul_(0.02).to(dtype).requires_grad_()
    targets = torch.randint(0, vocab_size, (positions,), device=local_device())
    places = torch.arange(positions, device=local_device())
    one_completion = torch.full((1,), positions, device=local_device())

    def chunked() -> Tensor:
        return completion_log_probs(
            hidden, weight, places, targets, one_completion, vocab_size=vocab_size, sequence_parallel=False
        )

    def whole() -> Tensor:
        logits = (hidden[:, 0] @ weight.t()).float()
        return logits.log_softmax(-1).gather(1, targets[:, None]).sum()

    def run(head: Callable[[], Tensor]) -> dict[str, float]:
        if hidden.is_cuda:  # compile GPU kernels and initialize libraries
            head().sum().backward()
            hidden.grad = weight.grad = None
        before = measure(lambda: None).peak_bytes
        measured = measure(lambda: head().sum().backward())
        gradients = sum(tensor.grad.nbytes for tensor in (hidden, weight) if tensor.grad is not None)
        hidden.grad = weight.grad = None
        return {"seconds": measured.seconds, "extra_bytes": measured.peak_bytes - before - gradients}

    report: dict[str, object] = {"positions": positions, "vocab_size": vocab_size, "hidden_size": hidden_size}
    report["full_logits_bytes"] = positions * vocab_size * 4
    report["chunked"] = run(chunked)
    if full:
        report["full"] = run(whole)
    return report


def table(report: dict) -> str:
    logits = report["full_logits_bytes"]
    lines = [f"{report['positions']} positions, {report['vocab_size']} tokens: full logits {logits / 1e9:.2f} GB"]
    for name in ("chunked", "full"):
        if name in report:
            extra = report[name]["extra_bytes"]
            share = f"{extra / 1e9:.3f} GB beyond inputs and gradients ({100 * extra / logits:.1f} %)"
            lines.append(f"  {name:<9}{report[name]['seconds']:.2f} s, {share}")
    return "\n".join(lines)
