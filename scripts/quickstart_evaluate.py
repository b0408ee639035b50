# SPDX-License-Identifier: Apache-2.0
"""Last stage of the quickstart: evaluate all models on the held-out sums, by greedy answers and preference accuracy.

python scripts/quickstart_evaluate.py --data evaluation.jsonl --sft DIR --mcpo DIR --onmcpo DIR --out evaluation.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nemo_mcpo.evaluation.arithmetic import Problem, is_right
from nemo_mcpo.evaluation.report import POLICIES
from nemo_mcpo.platform.command import run_command

MAX_TOKENS = 72
BATCH_SIZE = 256
NUM_EXAMPLES = 2


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Nectar's schema; rank 1 is the right answer")
    for policy in POLICIES:
        parser.add_argument(f"--{policy}", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    from nemo_mcpo.evaluation.preference_accuracy import RankedAnswers

    items, problems = [], []
    for line in arguments.data.read_text().splitlines():
        record = json.loads(line)
        right, *wrong = (answer["answer"] for answer in record["answers"])
        problems.append(Problem.read(record["prompt"]))
        items.append(RankedAnswers(problems[-1].question, right, tuple(wrong)))
    scores, answers = {}, {}
    for policy in POLICIES:
        scores[policy], answers[policy] = evaluate(getattr(arguments, policy), problems, items)
    examples = [
        {
            "question": item.question,
            "right": item.right,
            "answers": {policy: own[row] for policy, own in answers.items()},
        }
        for row, (item, problem) in enumerate(zip(items, problems, strict=True))
        if not is_right(problem, answers["sft"][row])
    ]
    arguments.out.write_text(json.dumps({**scores, "examples": examples[:NUM_EXAMPLES]}, indent=1))


def evaluate(directory: Path, problems: list[Problem], items: list) -> tuple[dict[str, object], list[str]]:
    """Scores of one model, and its greedy answers."""
    from nemo_mcpo.evaluation.answers import Decoding, exact_match, generate_answers
    from nemo_mcpo.evaluation.preference_accuracy import preference_accuracy
    from nemo_mcpo.evaluation.report import Scores
    from nemo_mcpo.rollouts.generation import load_policy

    policy = load_policy(directory)
    greedy = Decoding(temperature=0.0, max_tokens=MAX_TOKENS, batch_size=BATCH_SIZE)
    answers = generate_answers(policy, [problem.question for problem in problems], greedy, progress=True)
    scores = Scores(
        exact_match(problems, answers, is_right), preference_accuracy(policy, items, BATCH_SIZE, progress=True)
    )
    print(f"{directory}: {scores}")
    return asdict(scores), answers


if __name__ == "__main__":
    run_command(main)
