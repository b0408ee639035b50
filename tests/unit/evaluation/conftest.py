# SPDX-License-Identifier: Apache-2.0
"""A small random policy that knows the tokens of the sums."""

import json
import random
from pathlib import Path

import pytest

from nemo_mcpo.evaluation.arithmetic import draw_problems, worked_answer
from nemo_mcpo.models.huggingface.tiny import make_tiny_model
from nemo_mcpo.rollouts.generation import Policy, load_policy


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("policy")
    problems = draw_problems(200, random.Random(0))
    texts = [{"prompt": problem.question, "answer": worked_answer(problem)} for problem in problems]
    data: Path = folder / "texts.jsonl"
    data.write_text("".join(json.dumps(text) + "\n" for text in texts))
    make_tiny_model(data, folder / "model", "1m", seed=3)
    return load_policy(folder / "model")
