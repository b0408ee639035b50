# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_mcpo.errors import DataError
from nemo_mcpo.evaluation.sweep import final_value, read_runs, sweep_table


def write_run(directory: Path, name: str, values: list[float | None], *, done: bool = True) -> None:
    run = directory / name
    run.mkdir()
    lines = [json.dumps({"step": step, "loss": 1.0, "val_loss": value}) for step, value in enumerate(values, start=1)]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines) + '{"step"')  # being written
    (run / "heartbeat.json").write_text(json.dumps({"doing": "done" if done else "train"}))


def test_the_table(tmp_path):
    write_run(tmp_path, "lr-1e-6-seed-1", [0.9, None, 0.5])
    write_run(tmp_path, "lr-1e-6-seed-2", [0.8, 0.7])
    write_run(tmp_path, "lr-2e-5-seed-1", [0.25, None], done=False)
    write_run(tmp_path, "lr-2e-5-seed-2", [None], done=False)
    (tmp_path / "lr-3e-5-seed-1").mkdir()  # waits for its node
    (tmp_path / "cache").mkdir()
    runs = read_runs(tmp_path, "val_loss")
    assert [(run.lr, run.seed, run.steps, run.done, run.value) for run in runs] == [
        (1e-6, 1, 3, True, 0.5),
        (1e-6, 2, 2, True, 0.7),
        (2e-5, 1, 2, False, 0.25),
        (2e-5, 2, 1, False, None),
        (3e-5, 1, 0, False, None),
    ]
    assert sweep_table(runs, "val_loss").splitlines() == [
        "learning rate  runs     val_loss",
        "1e-06          2 of 2   0.6000 ± 0.1414",
        "2e-05          0 of 2   0.2500  best",
        "3e-05          0 of 1   –",
    ]
    assert "0.1414  best" in sweep_table(runs, "val_rewards/accuracy")  # where more is better


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("val_loss", [3.0, 1.0, None], 1.0),
        ("loss", [9.0] * 18 + [1.0, 2.0], 1.5),
        ("loss", [3.0], 3.0),
        ("x", [], None),
    ],
)
def test_the_value_of_a_run(metric, values, expected):
    assert final_value([{metric: value} for value in values], metric) == expected


def test_nothing_to_collect(tmp_path):
    with pytest.raises(DataError, match="no runs found"):
        read_runs(tmp_path, "loss")
    write_run(tmp_path, "lr-1e-6-seed-1", [1.0])
    with pytest.raises(DataError, match="no run has this metric") as caught:
        read_runs(tmp_path, "val_acc")
    assert caught.value.got == "val_acc" and caught.value.expected.startswith("one of loss, ")
