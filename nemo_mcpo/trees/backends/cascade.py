# SPDX-License-Identifier: Apache-2.0
r"""Backend ``cascade``: attention on a CPU without masks, copies of keys, or computing anything that is masked out.

All completions of a tree attend to their prompt in one call (p), and each attends to itself in another (c); the two
softmaxes are merged by their log-sum-exps, as FlashAttention merges its blocks:

.. math::
    o = \sigma(\ell_p - \ell_c)\, o_p + \sigma(\ell_c - \ell_p)\, o_c, \qquad \ell = \log(e^{\ell_p} + e^{\ell_c})

The backward pass of each call, given the merged :math:`o` and :math:`\ell`, is its share of the whole gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.params import TreeParams

# The operator behind scaled_dot_product_attention on a CPU; called directly because only it returns the log-sum-exps.
_OPERATOR = "_scaled_dot_product_flash_attention_for_cpu"


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return "it runs only on CPUs"
    return None if hasattr(torch.ops.aten, _OPERATOR) else f"torch {torch.__version__} has no {_OPERATOR}"


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    return _Cascade.apply(query, key, value, params)


class _Cascade(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
        output, lse = params.run_operator(lambda: _forward(query, key, value, params.spans))
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.spans = params.spans
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output, lse = ctx.saved_tensors
        groups = key.shape[1]
        gradients = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in (query, key, value)]
        query_gradient_RGSD, *key_and_value_gradients_GSD = (_by_group(tensor, groups) for tensor in gradients)
        key_and_value_gradients_GSD = [tensor[0] for tensor in key_and_value_gradients_GSD]
        query_RGSD, *keys_and_values = _views(query, key, value)
        gradient_RGSD, output_RGSD, lse_RGS = (_by_group(tensor, groups) for tensor in (gradient, output, lse))

        def add_part(queries: slice, keys: slice, is_causal: bool) -> None:
            operator = getattr(torch.ops.aten, f"{_OPERATOR}_backward")
            at_queries = [tensor[:, :, queries] for tensor in (gradient_RGSD, query_RGSD, output_RGSD)]
            at_keys = [tensor[:, :, keys] for tensor in keys_and_values]
            lse_part = lse_RGS[:, :, queries].contiguous()
            parts = operator(*at_queries[:2], *at_keys, at_queries[2], lse_part, 0.0, is_causal)
            query_gradient_RGSD[:, :, queries] += parts[0]
            for whole, one in zip(key_and_value_gradients_GSD, parts[1:], strict=True):
                whole[:, keys] += one.sum(0)

        for span in ctx.spans:
            prompt = slice(span.start, span.prompt_stop)
            for own in (prompt, *(slice(*completion) for completion in span.completions)):
                add_part(own, own, is_causal=True)
            if span.completion_stops:
                add_part(slice(span.prompt_stop, span.stop), prompt, is_causal=False)
        return gradients[0], gradients[1], gradients[2], None


def _forward(query: Tensor, key: Tensor, value: Tensor, spans: tuple[TreeSpan, ...]) -> tuple[Tensor, Tensor]:
    """Return the context, ``[S, heads, d]``, and the log-sum-exps, ``[S, heads]``."""
    groups = key.shape[1]
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    lse = query.new_empty(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
    output_RGSD, lse_RGS = _by_group(output, groups), _by_group(lse, groups)
    query_RGSD, *keys_and_values = _views(query, key, value)

    def part(queries: slice, keys: slice, is_causal: bool) -> tuple[Tensor, Tensor]:
        operator = getattr(torch.ops.aten, _OPERATOR)
        key_RGSD, value_RGSD = (tensor[:, :, keys] for tensor in keys_and_values)
        return operator(query_RGSD[:, :, queries], key_RGSD, value_RGSD, 0.0, is_causal)

    for span in spans:
        prompt, branches = slice(span.start, span.prompt_stop), slice(span.prompt_stop, span.stop)
        for own in (prompt, *(slice(*completion) for completion in span.completions)):
            output_RGSD[:, :, own], lse_RGS[:, :, own] = part(own, own, is_causal=True)
        if span.completion_stops:
            of_prompt, lse_of_prompt = part(branches, prompt, is_causal=False)
            of_own, lse_of_own = output_RGSD[:, :, branches], lse_RGS[:, :, branches]
            of_own.lerp_(of_prompt, (lse_of_prompt - lse_of_own).sigmoid()[..., None].to(of_own.dtype))
            lse_of_own.copy_(torch.logaddexp(lse_of_own, lse_of_prompt))
    return output, lse


def _views(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """Return three views ``[R, G, S, d]``; the R query heads of a group share its keys and values, by stride 0."""
    groups = key.shape[1]
    repeats = query.shape[1] // groups
    shared = [_by_group(tensor, groups).expand(repeats, -1, -1, -1) for tensor in (key, value)]
    return [_by_group(query, groups), *shared]


def _by_group(tensor: Tensor, groups: int) -> Tensor:
    """Return a view of ``[S, heads, …]`` as ``[R, G, S, …]``, where head = g R + r."""
    return tensor.unflatten(1, (groups, -1)).movedim((2, 1), (0, 1))
