# SPDX-License-Identifier: Apache-2.0
"""The table of rollout engines, which generate the policy's answers.

To add one, put an ``Engine`` and its ``EngineKind`` in a new file, and add a line to ``ENGINES``.
"""

from __future__ import annotations

from nemo_mcpo.rollouts.engine import EngineKind
from nemo_mcpo.rollouts.hf import HF
from nemo_mcpo.rollouts.openai_engine import OPENAI

ENGINES: dict[str, EngineKind] = {
    "hf": HF,
    "openai": OPENAI,
}
"""The engines, by ``rollouts.engine``."""
