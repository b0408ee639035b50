# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: one line per step of the whole run, whatever was interrupted or moved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_mcpo.algorithms.run_log import RunLog
from nemo_mcpo.config import RunConfig
from tests.support.configs import checked

pytestmark = pytest.mark.usefixtures("one_process")


def config(directory: Path, **exp_manager: object) -> RunConfig:
    keys = {"explicit_log_dir": str(directory), "create_tensorboard_logger": False} | exp_manager
    return checked({f"exp_manager.{key}": value for key, value in keys.items()})


def steps(log: RunLog) -> list[int]:
    return [json.loads(line)["step"] for line in log.metrics_path.read_text().splitlines()]


def write_steps(log: RunLog, count: int) -> None:
    for step in range(1, count + 1):
        log.write(step, {"loss": 1.0 / step})


def test_where_a_run_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    named = {"exp_manager.explicit_log_dir": None, "exp_manager.exp_dir": "results", "exp_manager.name": "first"}
    assert checked(named).exp_manager.directory == tmp_path / "results" / "first"
    assert config(Path("~/run")).exp_manager.directory == tmp_path / "home" / "run"


def test_lines_keep_every_digit_and_missing_values_are_null(tmp_path):
    log = RunLog(config(tmp_path))
    log.write(1, {"loss": 0.1 + 0.2, "rewards/margin": math.nan, "grad_norm": math.inf, "tokens": 7})
    log.close()
    assert log.metrics_path == tmp_path / "metrics.jsonl"
    line = log.metrics_path.read_text()
    assert json.loads(line) == {"step": 1, "loss": 0.1 + 0.2, "rewards/margin": None, "grad_norm": None, "tokens": 7}
    assert "NaN" not in line and line.endswith("}\n")


def test_rewind_forgets_later_steps(tmp_path):
    log = RunLog(config(tmp_path))
    write_steps(log, 5)
    before = log.metrics_path.read_text().splitlines(keepends=True)
    log.rewind(3)
    assert log.metrics_path.read_text() == "".join(before[:3])
    log.write(4, {"loss": 9.0})
    assert steps(log) == [1, 2, 3, 4]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3', "{", '{"step": 3, "loss": 0.25}'])
def test_rewind_drops_a_torn_line(tmp_path, torn):
    log = RunLog(config(tmp_path))
    write_steps(log, 2)
    with open(log.metrics_path, "a", encoding="utf-8") as file:
        file.write(torn)
    log.rewind(2)
    log.write(3, {"loss": 1.0})
    assert steps(log) == [1, 2, 3]


def test_a_whole_last_line_without_its_end_is_kept_apart(tmp_path):
    log = RunLog(config(tmp_path))
    write_steps(log, 2)
    log.metrics_path.write_text(log.metrics_path.read_text().rstrip("\n"))
    log.rewind(2)
    log.write(3, {"loss": 1.0})
    assert steps(log) == [1, 2, 3]


def test_rewind_to_nothing_and_of_nothing(tmp_path):
    log = RunLog(config(tmp_path))
    log.rewind(0)
    assert not log.metrics_path.exists()
    write_steps(log, 2)
    log.rewind(0)
    assert log.metrics_path.read_text() == ""
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_a_second_start_has_the_metrics_of_the_first(tmp_path):
    first = RunLog(config(tmp_path))
    write_steps(first, 2)
    first.close()
    for start in range(2):
        again = RunLog(config(tmp_path))
        assert steps(again) == list(range(1, 3 + start))
        again.write(3 + start, {"loss": 1.0})
        again.close()
    assert steps(again) == [1, 2, 3, 4]


def test_files_of_the_log_directory_stay_where_they_are(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.jsonl").write_text('{"step": 8}\n')
    assert steps(RunLog(config(tmp_path))) == [8]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_tensorboard_if_enabled(tmp_path):
    plain = RunLog(config(tmp_path / "plain"))
    plain.write(1, {"loss": 1.0})
    plain.close()
    assert not list((tmp_path / "plain").rglob("events.out.tfevents.*"))
    log = RunLog(config(tmp_path / "board", create_tensorboard_logger=True))
    log.write(1, {"loss": 0.5, "rewards/margin": math.nan})
    log.close()
    events = EventAccumulator(str(tmp_path / "board" / "nemo"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5)]


def test_prompts_of_a_failed_step(tmp_path):
    path = RunLog(config(tmp_path)).save_prompts(7, [{"prompt_id": 3, "source": "data.jsonl:12"}])
    assert path == tmp_path / "not_finite-00000007.json"
    assert json.loads(path.read_text()) == {"step": 7, "prompts": [{"prompt_id": 3, "source": "data.jsonl:12"}]}
