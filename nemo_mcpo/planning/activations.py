# SPDX-License-Identifier: Apache-2.0
"""Memory that the forward pass keeps for the backward pass, in bytes.

A layer without recompute keeps, per token, the following elements of b bytes each; t is the tensor-parallel size, s is
t with sequence parallelism and 1 without, G is the number of keys that attention gathers per token:

    norms       (2 n) H / s           n = 2: input and output of each norm (3 on a CPU: also before the weight)
    attention   (2 Q + 2 G K) / t     queries, gathered keys and values, context
    feed-forward  (2 + 1) F / t       gate and up, their product (5 F without the fused GPU kernel)

Full recompute keeps only each layer's input, H / s. Selective recompute keeps the projection's output, and repeats the
rotary embedding and attention. Rotation angles exist once per row and are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.budgets import FEWEST_POSITIONS, LOGITS_KEPT, LOGITS_PER_CHUNK
from nemo_mcpo.planning.workload import Layout


@dataclass(frozen=True, slots=True)
class Operators:
    """What the operators of a device keep.

    Attributes:
        norm: tensors that a norm keeps.
        swiglu: feed-forward columns kept per column of the second product.
        gathers: whether attention gathers the keys of every completion.
        device: key of the log-prob head's limits in ``models.budgets``.
    """

    norm: int
    swiglu: int
    gathers: bool
    device: str


GPU = Operators(norm=2, swiglu=3, gathers=True, device="cuda")
CPU = Operators(norm=3, swiglu=5, gathers=False, device="cpu")


def layer_bytes(
    architecture: ModelArchitecture, layout: Layout, recompute: str, gathered: float = 1.0, operators: Operators = GPU
) -> float:
    """Return what one layer keeps per token of a row, if attention gathers ``gathered`` keys per token."""
    a, b, tensor = architecture, layout.itemsize, layout.tensor
    if recompute == "full":
        return b * a.hidden_size / layout.split
    query, key = a.num_attention_heads * a.head_dim / tensor, a.num_query_groups * a.head_dim / tensor
    elements = 2 * operators.norm * a.hidden_size / layout.split + operators.swiglu * a.ffn_hidden_size / tensor
    log_sum_exp = 4 * a.num_attention_heads / tensor
    if recompute == "selective":
        elements += 2 * query + (query + 2 * key)  # megatron-core copies the queries from the projection
    elif not operators.gathers:
        elements += 2 * query + key + (query + 2 * key)  # values are part of the projection's output
    else:
        elements += 2 * query + 2 * gathered * key
    if a.qk_norm:
        # Inputs of the two norms: a copy of the queries, and the keys in the projection's output.
        elements += query + (operators.norm - 2) * (query + key)
        elements += (query + 2 * key) if recompute == "none" and operators.gathers else 0
    return b * elements + (log_sum_exp if recompute == "none" else 0)


def output_bytes(
    architecture: ModelArchitecture, layout: Layout, targets: float, tokens: float, operators: Operators
) -> float:
    """Return what a row of ``tokens`` keeps between the last layer and the loss; a share ``targets`` are predicted.

    These are the final norm's tensors except its output, the hidden states that predict, and their logits if few.
    """
    a, b = architecture, layout.itemsize
    logits = targets * tokens * a.padded_vocab_size / layout.tensor
    kept = 4 * logits if logits <= LOGITS_KEPT[operators.device] else 0.0
    return (
        (operators.norm - 1) * tokens * a.hidden_size * b / layout.split + targets * tokens * a.hidden_size * b + kept
    )


def head_bytes(architecture: ModelArchitecture, layout: Layout, targets: float, operators: Operators = GPU) -> float:
    """Return the working memory of the log-prob head's backward pass at ``targets`` positions.

    It holds a chunk of logits in float32 (unless all are kept) and in the model's dtype, the weight gradient in both
    dtypes, and the gradient of the hidden states.
    """
    a, b = architecture, layout.itemsize
    rows = a.padded_vocab_size // layout.tensor
    chunk = min(targets, max(FEWEST_POSITIONS, LOGITS_PER_CHUNK[operators.device] // rows))
    copies = 4 + (b if b < 4 else 0)
    kept = targets * rows <= LOGITS_KEPT[operators.device]
    return (b if kept else copies) * chunk * rows + copies * rows * a.hidden_size + b * targets * a.hidden_size


def backward_bytes(architecture: ModelArchitecture, layout: Layout, tokens: float) -> float:
    """Return the working memory of a layer's backward pass.

    It holds the gradients of both feed-forward products, of the layer's input and output (whole rows, because sequence
    parallelism gathers them), and of the largest weight before it is added to the gradient buffer.
    """
    a = architecture
    per_token = 3 * a.ffn_hidden_size / layout.tensor + 2 * a.hidden_size
    return layout.itemsize * (tokens * per_token + 2 * a.ffn_hidden_size * a.hidden_size / layout.tensor)


def scoring_bytes(architecture: ModelArchitecture, layout: Layout, tokens: float) -> float:
    """Return the working memory of scoring: that of one layer, or a chunk of logits in float32 and bf16."""
    a, b = architecture, layout.itemsize
    layer = b * tokens * (3 * a.ffn_hidden_size / layout.tensor + 3 * a.hidden_size)
    rows = a.padded_vocab_size // layout.tensor
    chunk = max(FEWEST_POSITIONS, LOGITS_PER_CHUNK["cuda"] // rows)
    return max(layer, b * tokens * a.hidden_size + (4 + b) * chunk * rows)


def recorded_bytes(architecture: ModelArchitecture, layout: Layout, tokens: float) -> float:
    """Return the recordings of ``tokens`` scored tokens that training replays, for one rank's share of the layers.

    Layer outputs: H / s. Products: (Q + 2 K) / t and H of the projections, 2 F / t and H of the feed-forward.
    """
    a = architecture
    query, key = a.num_attention_heads * a.head_dim, a.num_query_groups * a.head_dim
    elements = {
        None: 0.0,
        "layers": a.hidden_size / layout.split,
        "products": (query + 2 * key + 2 * a.ffn_hidden_size) / layout.tensor + 2 * a.hidden_size,
    }[layout.reuse]
    return layout.itemsize * elements * tokens * a.num_layers / layout.pipeline
