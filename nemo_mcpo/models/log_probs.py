# SPDX-License-Identifier: Apache-2.0
"""Log-probs of target tokens from hidden states, vocabulary-parallel and in chunks.

    log p(t) = h · W[t] − log Σ_v exp(h · W[v])

Each tensor-parallel rank holds a slice of W. Logits exist for one chunk of positions at a time, so that memory does
not grow with positions × vocabulary. The backward pass recomputes them, unless there are few enough to keep. The
softmax is in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor

from nemo_mcpo.models.budgets import FEWEST_POSITIONS, LOGITS_KEPT, LOGITS_PER_CHUNK
from nemo_mcpo.platform.compiled import compiled_on_gpu


def completion_log_probs(
    hidden: Tensor,
    output_weight: Tensor,
    predictor_T: Tensor,
    target_T: Tensor,
    num_targets_N: Tensor,
    *,
    vocab_size: int,
    sequence_parallel: bool,
) -> Tensor:
    """Return the summed log-prob of every completion of a row: float32 (or float64) ``[N]``, nats.

    Args:
        hidden: ``[S, 1, H]``, or ``[S / tensor parallel size, 1, H]`` with sequence parallelism.
        output_weight: this rank's slice of the output layer, ``[padded vocab / tensor parallel size, H]``.
        predictor_T, target_T, num_targets_N: see ``TreeBatch``.
        vocab_size: rows of the whole output layer without padding; padding rows get no probability.
    """
    if sequence_parallel:
        hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True)
    else:
        hidden = copy_to_tensor_model_parallel_region(hidden)
    hidden_TH = hidden[:, 0].index_select(0, predictor_T)
    # Read here because gradients are always off inside an autograd function.
    keep = torch.is_grad_enabled() and hidden_TH.shape[0] * len(output_weight) <= LOGITS_KEPT[hidden.device.type]
    logps_T = _TokenLogProbs.apply(hidden_TH, output_weight, target_T, vocab_size, keep)
    return _sums(logps_T, num_targets_N)


def _sums(values_T: Tensor, lengths_N: Tensor) -> Tensor:
    """Return the sums ``[N]`` of consecutive values, in a fixed order (``index_add`` on a GPU has none).

    The sum is in float64: in float32, hundreds of additions to a sum of hundreds of nats lose more precision than
    everything before. Without ``unsafe``, torch waits for the GPU to check the lengths.
    """
    if not len(values_T):  # some releases of torch reject empty input
        return values_T.sum().expand(len(lengths_N))
    return torch.segment_reduce(values_T.double(), "sum", lengths=lengths_N, unsafe=True).to(values_T.dtype)


class _TokenLogProbs(torch.autograd.Function):
    """``[T, H]`` hidden states and ``[V / tp, H]`` weights to ``[T]`` log-probs; gradients are this rank's part."""

    @staticmethod
    def forward(ctx, hidden_TH: Tensor, weight: Tensor, target_T: Tensor, vocab_size: int, keep: bool) -> Tensor:
        first = parallel_state.get_tensor_model_parallel_rank() * weight.shape[0]
        num_real = min(max(vocab_size - first, 0), weight.shape[0])
        chunks = _chunks(hidden_TH, weight)
        largest_T, sum_T, target_logit_T = hidden_TH.new_empty(3, len(hidden_TH), dtype=_wide(hidden_TH))
        buffer = None if keep else _buffer(chunks, weight, _wide(weight))
        kept = []
        for rows in chunks:
            size = rows.stop - rows.start
            out = buffer[:size] if buffer is not None else _buffer([rows], weight, _wide(weight))
            logits = _logits(hidden_TH[rows], weight, num_real, out)
            target_logit_T[rows] = _pick(logits, target_T[rows] - first, num_real)
            largest_T[rows], sum_T[rows] = _exponentiate_and_sum(logits)
            kept += [logits] if keep else []
        logsumexp_T = largest_T + sum_T.log()
        logsumexp_T, target_logit_T = _over_vocabulary_slices(logsumexp_T, target_logit_T)
        ctx.save_for_backward(hidden_TH, weight, target_T, logsumexp_T, largest_T, *kept)
        ctx.first, ctx.num_real = first, num_real
        return target_logit_T - logsumexp_T

    @staticmethod
    def backward(ctx, grad_T: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_TH, weight, target_T, logsumexp_T, largest_T, *kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_TH)
        grad_weight = torch.zeros_like(weight, dtype=_wide(weight))
        chunks = _chunks(hidden_TH, weight)
        rounded = _buffer(chunks, weight, weight.dtype)
        buffer = rounded if kept or _wide(weight) == weight.dtype else _buffer(chunks, weight, _wide(weight))
        for number, rows in enumerate(chunks):
            size = rows.stop - rows.start
            if kept:
                exponentials = kept[number]
            else:
                exponentials = _logits(hidden_TH[rows], weight, ctx.num_real, buffer[:size])
                exponentials.sub_(largest_T[rows, None]).exp_()
            # d log p(t) / d logits = onehot(t) − softmax,  softmax = exponentials · exp(largest − log-sum-exp)
            factor = -grad_T[rows] * (largest_T[rows] - logsumexp_T[rows]).exp()
            local = target_T[rows] - ctx.first
            mine = (local >= 0) & (local < ctx.num_real)
            places = local.clamp(0, len(weight) - 1)[:, None]  # another rank's target: any place, since 0 is added
            at_targets = exponentials.gather(1, places) * factor[:, None] + (grad_T[rows] * mine)[:, None]
            grad_logits = torch.mul(exponentials, factor[:, None], out=rounded[:size])
            grad_logits.scatter_(1, places, at_targets.to(weight.dtype))
            grad_hidden[rows] = grad_logits @ weight
            _add_product(grad_weight, grad_logits.t(), hidden_TH[rows])
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def _wide(tensor: Tensor) -> torch.dtype:
    """Return float32, or float64 for a float64 model."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    """Split the positions into chunks whose logits exist at the same time; no chunk is longer than the first."""
    num_rows = hidden.shape[0]
    size = min(num_rows, max(FEWEST_POSITIONS, LOGITS_PER_CHUNK[weight.device.type] // weight.shape[0]))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size or 1)]


def _buffer(chunks: list[slice], weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Allocate space for the logits of any one chunk.

    All chunks share it: separate allocations would fragment a CPU's heap, and memory would grow as if all logits were
    kept.
    """
    return weight.new_empty(chunks[0].stop - chunks[0].start if chunks else 0, weight.shape[0], dtype=dtype)


def _logits(hidden: Tensor, weight: Tensor, num_real: int, out: Tensor) -> Tensor:
    """Fill ``out`` with the logits and return it; those of padding rows are -inf."""
    if out.dtype == hidden.dtype:
        torch.mm(hidden, weight.t(), out=out)
    elif _comes_out_wide(torch.mm, hidden.device, hidden.dtype):
        torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
    else:
        out.copy_(hidden @ weight.t())
    out[:, num_real:] = -torch.inf
    return out


def _add_product(total: Tensor, first: Tensor, second: Tensor) -> None:
    """Add ``first @ second`` to ``total`` in place, accumulated in the dtype of ``total``."""
    if total.dtype == first.dtype:
        total.addmm_(first, second)
    elif _comes_out_wide(torch.addmm, first.device, first.dtype):
        torch.addmm(total, first, second, out_dtype=total.dtype, out=total)
    elif _comes_out_wide(torch.mm, first.device, first.dtype):
        total += torch.mm(first, second, out_dtype=total.dtype)
    else:
        total += first @ second


@cache
def _comes_out_wide(product: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether ``torch.mm`` or ``torch.addmm`` of this dtype can return float32 without rounding in between.

    Only on a GPU, and depending on the release of torch: 2.8 supports it for ``mm`` but not for ``addmm``.
    """
    if device.type != "cuda":
        return False
    square = torch.ones(16, 16, device=device, dtype=dtype)
    total = square.float()
    operands = (square, square) if product is torch.mm else (total, square, square)
    try:
        product(*operands, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == (16.0 if product is torch.mm else 17.0)).all())


@compiled_on_gpu
def _exponentiate_and_sum(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``exp(logits − largest)`` in place; return each row's largest logit and sum.

    The largest logit is finite even if all logits of a row are -inf.
    """
    largest = logits.amax(-1).clamp_min(torch.finfo(logits.dtype).min)
    logits.sub_(largest[:, None]).exp_()
    return largest, logits.sum(-1)


def _pick(logits: Tensor, local_targets: Tensor, num_real: int) -> Tensor:
    """Return the targets' logits where this rank holds them, 0 elsewhere."""
    mine = (local_targets >= 0) & (local_targets < num_real)
    picked = logits.gather(1, local_targets.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return torch.where(mine, picked, 0.0)


def _over_vocabulary_slices(logsumexp_T: Tensor, target_logit_T: Tensor) -> tuple[Tensor, Tensor]:
    """Combine the ranks' slices with one gather of two numbers per token."""
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        return logsumexp_T, target_logit_T
    mine = torch.stack((logsumexp_T, target_logit_T))
    gathered = mine.new_empty(group.size(), *mine.shape)
    dist.all_gather(list(gathered.unbind()), mine, group=group)
    return torch.logsumexp(gathered[:, 0], dim=0), gathered[:, 1].sum(0)
