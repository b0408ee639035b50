# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a step, counted without overhead such as padding.

    layers(tree)   = 2 · weights of the layers · tokens + 4 · heads · head_dim · (query, key) pairs that attend
    head(tree)     = 2 · vocabulary · hidden · completion tokens
    step           = forward + 2 · forward for the backward pass + what recompute runs again

>>> shape = ModelArchitecture("llama", 8, 512, 896, 8, 4, 64, 8192, 4096, 1e-5, 1e4)
>>> tree = PromptTree(0, 0, np.zeros(250), tuple(np.zeros(250) for _ in range(6)))
>>> step = StepCost(shape, recompute="none", reuse=False)
>>> round(step.mcpo([tree], 1) / step.plain_dpo([tree]), 2)
1.33
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.records import PromptTree


@dataclass(frozen=True, slots=True)
class StepCost:
    """Operations of the steps of one model.

    Attributes:
        recompute: ``none``, ``selective`` (attention runs again) or ``full`` (layers run again).
        reuse: whether training replays the scoring pass.
        replays_attention: whether attention is replayed too: with ``cascade`` on a CPU, not with GPU kernels.
        repeats_head: whether the head's logits are too many to keep, so that the backward pass recomputes them.
    """

    architecture: ModelArchitecture
    recompute: str
    reuse: bool
    replays_attention: bool = True
    repeats_head: bool = False

    def plain_dpo(self, trees: Sequence[PromptTree]) -> float:
        """Return the cost of training the first two completions of every tree, each with its own prompt."""
        pairs = [first_completions(tree, 2) for tree in trees]
        return sum(
            self.trained(dataclasses.replace(pair, completions=(completion,)))
            for pair in pairs
            for completion in pair.completions
        )

    def mcpo(self, trees: Sequence[PromptTree], num_negatives: int) -> float:
        """Return the cost of scoring all candidates and training the preferred completion with ``num_negatives``.

        The first candidates stand for the drawn ones.
        """
        return sum(self.step(tree, first_completions(tree, 1 + num_negatives)) for tree in trees)

    def step(self, tree: PromptTree, pruned: PromptTree) -> float:
        """Return the cost of scoring a tree's candidates and training the pruned tree."""
        candidates = dataclasses.replace(tree, completions=tree.completions[1:])
        cost = self._head(candidates) + self.trained(pruned)
        if not self.reuse:
            return cost + self._layers(candidates)
        # For kept tokens the head runs a second time, but the layers do not.
        cost += self._layers(tree) - self._layers(pruned)
        if self.replays_attention:
            return cost - (self._attention(pruned) if self.recompute != "none" else 0.0)
        return cost + (self._attention(pruned) if self.recompute != "full" else 0.0)

    def trained(self, tree: PromptTree) -> float:
        """Return the cost of the forward pass, the backward pass and recompute."""
        again = {"none": 0.0, "selective": self._attention(tree), "full": self._layers(tree)}[self.recompute]
        return 3 * self.forward(tree) + again + (self._head(tree) if self.repeats_head else 0.0)

    def useful(self) -> StepCost:
        """Return the same model without repeated work."""
        return dataclasses.replace(self, recompute="none", replays_attention=True, repeats_head=False)

    def forward(self, tree: PromptTree) -> float:
        """Return the cost of the layers on all tokens and of the head on completion tokens."""
        return self._layers(tree) + self._head(tree)

    def _layers(self, tree: PromptTree) -> float:
        a = self.architecture
        query, key = a.num_attention_heads * a.head_dim, a.num_query_groups * a.head_dim
        weights = 2 * a.hidden_size * (query + key) + 3 * a.hidden_size * a.ffn_hidden_size
        return a.num_layers * 2 * weights * tree.num_tokens + self._attention(tree)

    def _attention(self, tree: PromptTree) -> float:
        a = self.architecture
        prompt, completions = len(tree.prompt_tokens), np.array([len(c) for c in tree.completions], dtype=float)
        pairs = prompt * (prompt + 1) / 2 + (completions * prompt + completions * (completions + 1) / 2).sum()
        return a.num_layers * 4 * a.num_attention_heads * a.head_dim * float(pairs)

    def _head(self, tree: PromptTree) -> float:
        targets = tree.num_tokens - len(tree.prompt_tokens)
        return 2.0 * self.architecture.padded_vocab_size * self.architecture.hidden_size * targets


def first_completions(tree: PromptTree, count: int) -> PromptTree:
    """Return the tree with its first ``count`` completions only."""
    return dataclasses.replace(tree, completions=tree.completions[:count])
