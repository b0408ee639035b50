# SPDX-License-Identifier: Apache-2.0
"""Benchmark of the attention backends, against each other and against a mask over the whole row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.measure import Spread, device_name, interleave
from benchmarks.workload import Shape
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.backends import BACKENDS
from nemo_mcpo.trees.backends.flex import mask_function
from nemo_mcpo.trees.backends.sdpa import heads_first
from nemo_mcpo.trees.params import TreeParams

DENSE = "dense mask"


def measure_backends(
    architecture: ModelArchitecture, shape: Shape, num_completions: int, dtype: torch.dtype, steps: int
) -> dict[str, object]:
    """Time one layer's attention over one tree, forward only and with backward, for every available backend."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stops = tuple(shape.prompt + shape.completion * number for number in range(1, num_completions + 1))
    spans = (TreeSpan(0, shape.prompt, stops),)
    params = TreeParams(spans=spans, device=device)
    heads = (architecture.num_attention_heads, architecture.num_query_groups, architecture.num_query_groups)
    inputs = [
        torch.randn(stops[-1], count, architecture.head_dim, dtype=dtype, device=device, requires_grad=True)
        for count in heads
    ]
    backends: dict[str, Callable[..., Tensor]] = {
        name: backend.attend for name, backend in BACKENDS.items() if not backend.reason_unavailable(device, dtype)
    }
    backends[DENSE] = dense

    def forward(attend: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            attend(*inputs, params)

    def both(attend: Callable[..., Tensor]) -> None:
        attend(*inputs, params).sum().backward()

    report: dict[str, object] = {
        "prompt_length": shape.prompt,
        "completion_length": shape.completion,
        "completions": num_completions,
        "dtype": str(dtype),
        "device": device_name(),
        "threads": torch.get_num_threads(),
    }
    for what, call in (("forward", forward), ("forward_backward", both)):
        programs: dict[str, Callable[[], object]] = {name: partial(call, attend) for name, attend in backends.items()}
        measured = interleave(programs, steps)
        report[what] = {name: Spread.of([run.seconds for run in runs]).as_dict() for name, runs in measured.items()}
    return report


def dense(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """Compute attention in one call with a boolean mask over the whole row."""
    mask = params.derived(_dense_mask)
    return scaled_dot_product_attention(*heads_first(query, key, value), attn_mask=mask)[0].transpose(0, 1)


def _dense_mask(params: TreeParams) -> Tensor:
    index_S = torch.arange(params.spans[-1].stop, device=params.device)
    return mask_function(params)(None, None, index_S[:, None], index_S[None, :])


def table(reports: Sequence[dict]) -> str:
    """Format the reports for people, in milliseconds."""
    lines = []
    for report in reports:
        where = f"{report['device']}, {report['dtype']}"
        shape = f"P{report['prompt_length']} C{report['completion_length']} x {report['completions']}"
        lines.append(f"{shape}, {where}: ms of one layer")
        lines.append(f"  {'':<20}{'forward':<22}forward and backward")
        for name in report["forward"]:
            cells = [str(Spread(**report[what][name]).times(1e3)) for what in ("forward", "forward_backward")]
            lines.append(f"  {name:<20}{cells[0]:<22}{cells[1]}")
    return "\n".join(lines)
