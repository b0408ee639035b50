# SPDX-License-Identifier: Apache-2.0
"""The rollout engines, by name: what generates the policy's answers.

A new one is an ``Engine`` and its ``EngineKind`` in a file of their own, and a line in ``ENGINES``.
"""

from __future__ import annotations

from nemo_mcpo.rollouts.engine import EngineKind
from nemo_mcpo.rollouts.hf import HF
from nemo_mcpo.rollouts.openai_engine import OPENAI

ENGINES: dict[str, EngineKind] = {
    "hf": HF,
    "openai": OPENAI,
}
"""By ``rollouts.engine``."""
