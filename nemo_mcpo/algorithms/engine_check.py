# SPDX-License-Identifier: Apache-2.0
"""Check of the engine on the run's own data before the first step: a shared tree against plain causal sequences.

A GPU kernel that aligns a mask at the wrong end, or a position id that is off by one, would train silently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nemo_mcpo.errors import NemoMcpoError
from nemo_mcpo.models.interface import SupportsPreferenceTraining
from nemo_mcpo.records import PromptTree

TOLERANCES = {"32": 2e-5, "bf16": 2e-2}
"""``trainer.precision`` -> the largest difference that rounding explains, in nats per token of the completion."""


class EngineError(NemoMcpoError):
    """The engine computes wrong log-probs."""


def check_shared_prefixes(model: SupportsPreferenceTraining, trees: Sequence[PromptTree], precision: str) -> None:
    """Score the smallest tree with several completions both ways; every rank must call this with the same trees.

    Raises:
        EngineError: the log-probs differ by more than rounding.
    """
    branching = [tree for tree in trees if len(tree.completions) > 1]
    if not branching:
        return
    tree = min(branching, key=lambda tree: tree.num_tokens)
    shared_K = model.log_probs([tree])[0].tolist()
    separate_K = model.log_probs([tree], share_prompts=False)[0].tolist()
    for column, completion in enumerate(tree.completions):
        shared, separate = shared_K[column], separate_K[column]
        differ = abs(shared - separate) > TOLERANCES[precision] * len(completion)
        if differ or math.isnan(shared) != math.isnan(separate):
            raise EngineError(
                "a completion has a different log-prob with a shared prompt than alone",
                where=f"prompt {tree.prompt_id}, completion {column} of {len(completion)} tokens",
                got=f"{shared:.6g} nats",
                expected=f"{separate:.6g} nats",
                fix="set model.attention_backend=sdpa, and report the versions that scripts/doctor.py prints",
            )
