# SPDX-License-Identifier: Apache-2.0
"""The table of judges.

To add one, put a ``Judge`` and its ``JudgeKind`` in a new file, and add a line to ``JUDGES``.
"""

from __future__ import annotations

from nemo_mcpo.judging.judgement import JudgeKind
from nemo_mcpo.judging.language_model import OPENAI
from nemo_mcpo.judging.reward_model import REWARD_MODEL
from nemo_mcpo.judging.rule import RULE

JUDGES: dict[str, JudgeKind] = {
    "openai": OPENAI,
    "rule": RULE,
    "reward_model": REWARD_MODEL,
}
"""The judges, by ``judge.kind``."""
