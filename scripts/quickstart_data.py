# SPDX-License-Identifier: Apache-2.0
"""Stage 1 of the quickstart: draw disjoint sets of sums for fine-tuning, preferences and evaluation.

python scripts/quickstart_data.py --out results/quickstart --seed 1

    sft.jsonl                   worked answers that often forget to carry
    preference_prompts.jsonl    questions only
    evaluation.jsonl            held-out sums in Nectar's schema: the right answer and six constructed wrong ones
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from nemo_mcpo.evaluation.arithmetic import draw_problems, hurried_work, nectar_record, rank_answers
from nemo_mcpo.platform.command import run_command
from nemo_mcpo.storage.atomic import write_whole


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="output directory")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--sft", type=int, default=24_000, help="number of sums for fine-tuning")
    parser.add_argument("--preferences", type=int, default=1_280, help="number of sums for sampled, ranked answers")
    parser.add_argument("--evaluation", type=int, default=600, help="number of held-out sums")
    arguments = parser.parse_args(argv)
    generator = random.Random(arguments.seed)
    problems = iter(draw_problems(arguments.sft + arguments.preferences + arguments.evaluation, generator))
    fine_tuning = [
        {"prompt": problem.question, "responses": [{"text": hurried_work(problem, generator)}]}
        for problem in islice(problems, arguments.sft)
    ]
    questions = [{"prompt": problem.question} for problem in islice(problems, arguments.preferences)]
    held_out = [nectar_record(problem, rank_answers(problem, (), 7)) for problem in problems]
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_lines(arguments.out / "sft.jsonl", fine_tuning)
    write_lines(arguments.out / "preference_prompts.jsonl", questions)
    write_lines(arguments.out / "evaluation.jsonl", held_out)


def write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object per line; the file appears only when it is complete."""
    write_whole(path, (json.dumps(record).encode() + b"\n" for record in records), private=False)
    print(path)


if __name__ == "__main__":
    run_command(main)
