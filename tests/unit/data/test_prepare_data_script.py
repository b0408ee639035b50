# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_mcpo.data.formats import FORMATS

SCRIPT = Path(__file__).parents[3] / "scripts" / "prepare_data.py"
RANKED = [{"text": text, "rank": rank} for rank, text in enumerate(("Hello", "fine", "thank you"), start=1)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return int(caught.value.code or 0)

    return run


def options(data: str, tokenizer: str, cache: Path) -> list[str]:
    return [
        *("--data", data, "--format", "jsonl", "--tokenizer", tokenizer, "--cache-dir", str(cache)),
        *("--max-prompt-length", "64", "--max-length", "128"),
    ]


def test_table(run, write_jsonl, tokenizer_dir, tmp_path, capsys):
    path = write_jsonl({"prompt": "Hi", "responses": RANKED}, {"prompt": "", "responses": RANKED})
    assert run(*options(path, tokenizer_dir, tmp_path)) == 0
    lines = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["prompts"], lines["completions"], lines["  empty prompt"]) == ("1", "3", "1")
    assert Path(lines["list of dropped"]).is_file() and Path(lines["directory"]).is_dir()
    assert run(*options(path, tokenizer_dir, tmp_path), "--drop-ranks", "2") == 0
    assert "completions         2" in capsys.readouterr().out


def test_bad_data_prints_one_line_and_exits_with_1(run, tokenizer_dir, tmp_path, capsys):
    assert run(*options("absent.jsonl", tokenizer_dir, tmp_path)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_bad_usage_exits_with_2(run, tmp_path):
    assert run("--data", "x") == 2
    assert run("--data", "x", "--format", "csv", "--max-prompt-length", "1", "--max-length", "2") == 2
    limits = ("--max-prompt-length", "1", "--max-length", "2", "--cache-dir", str(tmp_path))
    assert run("--data", "x.jsonl", "--format", "jsonl", *limits) == 2  # no tokenizer
    assert run("--data", "x.jsonl", "--format", "tokens", *limits[:3], "1", *limits[4:]) == 2  # max_length too short


def test_help_lists_every_format(run, capsys):
    assert run("--help") == 0
    assert "{" + ",".join(["auto", *FORMATS]) + "}" in capsys.readouterr().out
