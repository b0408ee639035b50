# SPDX-License-Identifier: Apache-2.0
"""Tokenize a file of prompts with ranked responses into a memory-mapped dataset, as training does when it starts.

    python scripts/prepare_data.py --data nectar.parquet --format nectar --tokenizer MODEL_DIR \\
        --max-prompt-length 1024 --max-length 2048 --cache-dir cache --show 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from nemo_mcpo.platform.command import run_command
from nemo_mcpo.platform.report import render_facts


def main(argv: Sequence[str]) -> None:
    arguments = _parse_arguments(argv)
    # Imported late: slow, and not needed for --help or usage errors.
    from nemo_mcpo.data.prepare import prepare_dataset
    from nemo_mcpo.data.shown import show_record

    start = time.monotonic()
    dataset = prepare_dataset(
        data=arguments.data,
        data_format=arguments.format,
        tokenizer_dir=arguments.tokenizer,
        vocab_size=arguments.vocab_size,
        max_prompt_length=arguments.max_prompt_length,
        max_length=arguments.max_length,
        drop_ranks=arguments.drop_ranks,
        max_candidates=arguments.max_candidates,
        cache_dir=arguments.cache_dir,
        progress=True,
        min_answers=arguments.min_answers,
        ignored_keys=arguments.ignored_keys,
    )
    for index in range(min(arguments.show, len(dataset))):
        print(show_record(dataset, index, arguments.tokenizer), end="\n\n")
    report = dataset.report
    table = {
        "prompts": report.prompts,
        "completions": report.completions,
        "tokens": report.tokens,
        "mean prompt length": f"{report.prompt_tokens / report.prompts:.1f}",
        "mean answer length": f"{report.completion_tokens / report.completions:.1f}",
        "prompts cut": report.truncated_prompts,
        "answers cut": report.truncated_answers,
        "answers repeated": report.repeated_answers,
        "dropped": sum(report.dropped.values()),
        **{f"  {reason}": count for reason, count in report.dropped.items()},
        "list of dropped": dataset.dropped_path,
        "directory": dataset.directory,
        "seconds": f"{time.monotonic() - start:.1f}",
    }
    print(render_facts(table))


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    from nemo_mcpo.data.formats import AUTO, FORMATS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="file, save_to_disk directory, or hub name")
    parser.add_argument("--format", default=AUTO, choices=[AUTO, *FORMATS], help="default: auto (by columns)")
    parser.add_argument("--tokenizer", help="directory of the model; not needed for format tokens")
    parser.add_argument("--vocab-size", type=int, help="of the model; default: read from the tokenizer directory")
    parser.add_argument("--max-prompt-length", type=int, required=True, help="maximum tokens of a prompt")
    parser.add_argument("--max-length", type=int, required=True, help="maximum tokens of a prompt and one response")
    parser.add_argument("--drop-ranks", type=int, nargs="*", help="default: 2 for nectar; without values, none")
    parser.add_argument("--max-candidates", type=int, help="candidates kept per prompt; default: all")
    parser.add_argument("--min-answers", type=int, default=2, help="1 for sft; 0 for prompts alone, as in OnMC-PO")
    parser.add_argument("--ignored-keys", nargs="*", default=[], help="columns, and keys of turns, to ignore")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N records as the model sees them")
    parser.add_argument("--cache-dir", required=True, help="same as in training, so that it finds the dataset")
    arguments = parser.parse_args(argv)
    if arguments.tokenizer is None and arguments.format not in ("auto", "tokens"):
        parser.error(f"--format {arguments.format} needs --tokenizer")
    return arguments


if __name__ == "__main__":
    run_command(main)
