# SPDX-License-Identifier: Apache-2.0
"""The rows that the search tries."""

from __future__ import annotations

from nemo_mcpo.planning.data_shape import DataShape
from nemo_mcpo.planning.gpus import GPUS
from nemo_mcpo.planning.search import budgets
from nemo_mcpo.planning.shapes import SHAPES
from nemo_mcpo.planning.workload import Question
from tests.support.configs import compose

CONFIG = compose(name="gpt_mcpo", world_size=8)


def question(**data: float) -> Question:
    return Question(SHAPES["llama-3.1-8b"], DataShape(**data), GPUS["A100-40"])


def test_budgets_are_halved_as_long_as_a_prompt_has_room():
    # A prompt may have 2,048 tokens; with six completions of 1,200 it has 7,321 tokens, with two 2,521.
    assert list(budgets(CONFIG, question())) == [
        (8192, 32768),
        (4096, 16384),
        (2048, 8192),
        (2048, 4096),
        (2048, 2048),
    ]
    assert list(budgets(CONFIG, question(completion_length=1200))) == [(8192, 32768), (4096, 16384), (4096, 8192)]
