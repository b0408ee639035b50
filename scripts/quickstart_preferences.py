# SPDX-License-Identifier: Apache-2.0
"""Stage 5 of the quickstart: sample answers from the fine-tuned model, rank them by the rule, write Nectar's schema.

python scripts/quickstart_preferences.py --model DIR --prompts prompts.jsonl --out preferences.jsonl --seed 1
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.evaluation.arithmetic import Problem, is_right, nectar_record, rank_answers
from nemo_mcpo.platform.command import run_command
from quickstart_data import write_lines

NUM_ANSWERS = 7
NUM_SAMPLES = 8
TEMPERATURE = 1.0
MAX_TOKENS = 72
BATCH_SIZE = 256


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory to sample from")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args(argv)
    from nemo_mcpo.evaluation.answers import Decoding, generate_answers
    from nemo_mcpo.rollouts.generation import load_policy

    problems = [Problem.read(json.loads(line)["prompt"]) for line in arguments.prompts.read_text().splitlines()]
    repeated = [problem for problem in problems for _ in range(NUM_SAMPLES)]
    decoding = Decoding(TEMPERATURE, MAX_TOKENS, BATCH_SIZE, arguments.seed)
    answers = generate_answers(
        load_policy(arguments.model), [problem.question for problem in repeated], decoding, progress=True
    )
    samples = [answers[start : start + NUM_SAMPLES] for start in range(0, len(answers), NUM_SAMPLES)]
    ranked = [rank_answers(problem, own, NUM_ANSWERS) for problem, own in zip(problems, samples, strict=True)]
    write_lines(arguments.out, map(nectar_record, problems, ranked, samples))
    right = sum(map(is_right, repeated, answers)) / len(answers)
    own = sum(text in sampled for texts, sampled in zip(ranked, samples, strict=True) for text in texts[1:])
    print(f"share of right answers among {len(answers)} samples: {right:.3f}")
    print(f"wrong answers sampled from the model: {own} of {len(ranked) * (NUM_ANSWERS - 1)}, the others constructed")


if __name__ == "__main__":
    run_command(main)
