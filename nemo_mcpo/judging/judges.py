# SPDX-License-Identifier: Apache-2.0
"""The judges, by name: what finds the best of a prompt's answers.

A new one is a ``Judge`` and its ``JudgeKind`` in a file of their own, and a line in ``JUDGES``.
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
"""By ``judge.kind``."""
