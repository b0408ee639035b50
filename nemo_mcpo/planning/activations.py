# SPDX-License-Identifier: Apache-2.0
"""What the forward pass keeps for the backward pass, in bytes.

Of a layer without recompute, for each token, in elements of b bytes; t is the tensor-parallel size, s the same with
sequence parallelism and 1 without, G the keys that attention gathers for a token:

    norms       (2 n) H / s           n = 2: input and output of each norm (3 on a CPU: before the weight, too)
    attention   (2 Q + 2 G K) / t     queries, gathered keys and values, context
    feed-forward  (2 + 1) F / t       gate and up, their product (5 F without the fused kernel)

With full recompute only the input of each layer, H / s, is kept. Selective recompute turns queries and keys and runs
attention again: it keeps what comes out of the projection. The angles are there once a row, which is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.budgets import FEWEST_POSITIONS, LOGITS_KEPT, LOGITS_PER_CHUNK
from nemo_mcpo.planning.workload import Layout


@dataclass(frozen=True, slots=True)
class Kernels:
    """What differs between the kernels of a GPU and those of a CPU.

    Attributes:
        norm: tensors that a norm keeps.
        swiglu: feed-forward columns kept for each column of the second product.
        gathers: attention gathers the keys of every completion.
        device: of the log-prob head's limits.
    """

    norm: int
    swiglu: int
    gathers: bool
    device: str


GPU = Kernels(norm=2, swiglu=3, gathers=True, device="cuda")
CPU = Kernels(norm=3, swiglu=5, gathers=False, device="cpu")


def layer_bytes(
    architecture: ModelArchitecture, layout: Layout, recompute: str, gathered: float = 1.0, kernels: Kernels = GPU
) -> float:
    """Kept by one layer for each token of a row; ``gathered`` keys for each."""
    a, b, tensor = architecture, layout.itemsize, layout.tensor
    if recompute == "full":
        return b * a.hidden_size / layout.split
    query, key = a.num_attention_heads * a.head_dim / tensor, a.num_query_groups * a.head_dim / tensor
    elements = 2 * kernels.norm * a.hidden_size / layout.split + kernels.swiglu * a.ffn_hidden_size / tensor
    log_sum_exp = 4 * a.num_attention_heads / tensor
    if recompute == "selective":
        elements += 2 * query + (query + 2 * key)  # megatron-core copies the queries out of the projection
    elif not kernels.gathers:
        elements += 2 * query + key + (query + 2 * key)  # values are a part of the projection's output
    else:
        elements += 2 * query + 2 * gathered * key
    if a.qk_norm:
        # The inputs of the two norms: a copy of the queries, and the keys in the projection's output.
        elements += query + (kernels.norm - 2) * (query + key)
        elements += (query + 2 * key) if recompute == "none" and kernels.gathers else 0
    return b * elements + (log_sum_exp if recompute == "none" else 0)


def output_bytes(
    architecture: ModelArchitecture, layout: Layout, targets: float, tokens: float, kernels: Kernels
) -> float:
    """Kept between the last layer and the loss by a row of ``tokens``, of which a share ``targets`` are predicted.

    The final norm's tensors but its output, hidden states at predicting positions, and their logits if they are few.
    """
    a, b = architecture, layout.itemsize
    logits = targets * tokens * a.padded_vocab_size / layout.tensor
    kept = 4 * logits if logits <= LOGITS_KEPT[kernels.device] else 0.0
    return (kernels.norm - 1) * tokens * a.hidden_size * b / layout.split + targets * tokens * a.hidden_size * b + kept


def head_bytes(architecture: ModelArchitecture, layout: Layout, targets: float, kernels: Kernels = GPU) -> float:
    """Working memory of the log-prob head's backward pass at ``targets`` positions.

    A chunk of logits in float32 (unless all are kept) and in the model's type, the weight's gradient in both, and that
    of the hidden states.
    """
    a, b = architecture, layout.itemsize
    rows = a.padded_vocab_size // layout.tensor
    chunk = min(targets, max(FEWEST_POSITIONS, LOGITS_PER_CHUNK[kernels.device] // rows))
    copies = 4 + (b if b < 4 else 0)
    kept = targets * rows <= LOGITS_KEPT[kernels.device]
    return (b if kept else copies) * chunk * rows + copies * rows * a.hidden_size + b * targets * a.hidden_size


def backward_bytes(architecture: ModelArchitecture, layout: Layout, tokens: float) -> float:
    """Working memory of a layer's backward pass.

    Gradients of both feed-forward products, of the layer's input and output (whole rows: sequence parallelism gathers
    them), and of the largest weight before it is added to the gradient buffer.
    """
    a = architecture
    per_token = 3 * a.ffn_hidden_size / layout.tensor + 2 * a.hidden_size
    return layout.itemsize * (tokens * per_token + 2 * a.ffn_hidden_size * a.hidden_size / layout.tensor)


def scoring_bytes(architecture: ModelArchitecture, layout: Layout, tokens: float) -> float:
    """Working memory of a forward pass without gradient: one layer's, and a chunk of logits in float32 and bf16."""
    a, b = architecture, layout.itemsize
    layer = b * tokens * (3 * a.ffn_hidden_size / layout.tensor + 3 * a.hidden_size)
    rows = a.padded_vocab_size // layout.tensor
    chunk = max(FEWEST_POSITIONS, LOGITS_PER_CHUNK["cuda"] // rows)
    return max(layer, b * tokens * a.hidden_size + (4 + b) * chunk * rows)


def recorded_bytes(architecture: ModelArchitecture, layout: Layout, tokens: float) -> float:
    """What training reads of ``tokens`` that were scored, on a rank with its share of the layers.

    Layer outputs: H / s. Products: of the projections (Q + 2 K) / t and H, of the feed-forward 2 F / t and H.
    """
    a = architecture
    query, key = a.num_attention_heads * a.head_dim, a.num_query_groups * a.head_dim
    elements = {
        None: 0.0,
        "layers": a.hidden_size / layout.split,
        "products": (query + 2 * key + 2 * a.ffn_hidden_size) / layout.tensor + 2 * a.hidden_size,
    }[layout.reuse]
    return layout.itemsize * elements * tokens * a.num_layers / layout.pipeline
