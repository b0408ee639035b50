# SPDX-License-Identifier: Apache-2.0
"""The state machine: stages in order, each once, and only for the run that was started."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields

import pytest

from nemo_mcpo.algorithms import online_driver, onmcpo
from nemo_mcpo.algorithms.online_driver import StageFailedError, drive, dry_run
from nemo_mcpo.algorithms.onmcpo import STAGES, Exported, OnlineRun
from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.judging.tally import Ranked
from nemo_mcpo.platform.children import Child
from nemo_mcpo.platform.stopping import STOPPED_EARLY, StoppedEarly, StopRequest
from nemo_mcpo.records import Trained
from tests.support.configs import online


@pytest.fixture(autouse=True)
def no_locks(monkeypatch):
    """Locks last as long as the process."""
    monkeypatch.setattr(onmcpo, "lock_for_this_process", lambda path: None)
    monkeypatch.setattr(online_driver, "lock_for_this_process", lambda path: None)


def result(stage: str, value: float = 1):
    """A record as a stage leaves it, with the same number in every field."""
    record = STAGES[stage].result
    return record(*(value for _ in fields(record)))


def config(tmp_path, **changes):
    keys = {"exp_manager.explicit_log_dir": str(tmp_path), "onmcpo.segments": 2}
    return online(keys | changes)


def test_stages_in_their_order_and_once(tmp_path):
    run = OnlineRun(config(tmp_path))
    done, order = [], run.stages()
    assert order == [(segment, stage) for segment in range(2) for stage in STAGES]
    for place, (segment, stage) in enumerate(order):
        for later in order[place + 1 :]:
            with pytest.raises(RolloutError, match="is not finished"):
                run.run(*later, Exported)
        for _ in range(2):
            finished = run.run(segment, stage, lambda here=(segment, stage): done.append(here) or result(here[1], 1.5))
            assert finished.result == result(stage, 1.5) and finished.seconds >= 0
    assert done == order
    assert OnlineRun(config(tmp_path)).finished(1, "train").result == result("train", 1.5)


def test_a_failed_stage_is_not_finished(tmp_path):
    run = OnlineRun(config(tmp_path))
    with pytest.raises(ZeroDivisionError):
        run.run(0, "export", lambda: 1 / 0)
    assert run.finished(0, "export") is None


@pytest.mark.parametrize("segment", [-1, 2])
def test_no_such_segment(tmp_path, segment):
    with pytest.raises(ConfigError, match="no such segment") as caught:
        OnlineRun(config(tmp_path)).run(segment, "export", Exported)
    assert (caught.value.where, caught.value.got) == ("--segment", segment)


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("rollouts.samples", 3, 2),
        ("onmcpo.segments", 3, 2),
        ("judge.both_orders", True, False),
        ("judge.identity", "rev-2", None),
        ("model.seed", 5, 1234),
    ],
)
def test_another_run_is_refused_once_a_stage_has_read_the_key(tmp_path, key, value, before):
    run = OnlineRun(config(tmp_path))
    OnlineRun(config(tmp_path, **{key: value}))  # nothing is finished, so a mistake can still be corrected
    for stage in ("export", "generate", "judge"):
        run.run(0, stage, lambda stage=stage: result(stage))
    with pytest.raises(ConfigError, match="started with another value") as caught:
        OnlineRun(config(tmp_path, **{key: value}))
    assert (caught.value.where, caught.value.got, caught.value.expected) == (key, value, before)


@pytest.mark.parametrize(
    "key", ["rollouts.batch_size", "rollouts.server.replicas", "onmcpo.restarts", "judge.attempts", "judge.max_tokens"]
)
def test_where_and_how_fast_may_change(tmp_path, key):
    for stage in ("export", "generate", "judge"):
        OnlineRun(config(tmp_path)).run(0, stage, lambda stage=stage: result(stage))
    changed = OnlineRun(config(tmp_path, **{key: 7}))
    assert changed.run(0, "judge", lambda: pytest.fail("it is finished")).result == result("judge")
    assert changed.run(0, "train", lambda: result("train", 2)).result == result("train", 2)
    assert key not in json.loads((tmp_path / onmcpo.IDENTITY).read_text())


class Launcher:
    """Marks stages as finished; exit codes come from a list, then are 0. A stop is requested in ``asks_at``."""

    def __init__(self, run: OnlineRun, codes: list[int], asks_at: str | None) -> None:
        self.run, self.codes, self.asks_at, self.calls = run, codes, asks_at, []

    def __call__(self, command: list[str], count: int, stop: StopRequest, start: Callable[..., Child]) -> int:
        stage, segment = command
        self.calls.append((int(segment), stage, count))
        code = self.codes.pop(0) if self.codes else 0
        if stage == self.asks_at:
            stop.deadline = 0.0
        if code == 0:
            self.run.run(int(segment), stage, lambda: result(stage))
        return code


def driven(tmp_path, monkeypatch, codes, asks_at=None, **changes) -> Launcher:
    settings = config(tmp_path, **changes)
    launcher = Launcher(OnlineRun(settings), codes, asks_at)
    monkeypatch.setattr(online_driver, "run_processes", launcher)
    drive(settings, lambda stage, segment: [stage, str(segment)], StopRequest())
    return launcher


def test_every_stage_is_driven(tmp_path, monkeypatch, capsys):
    changes = {"model__tensor_model_parallel_size": 2}
    calls = driven(tmp_path, monkeypatch, [], **changes).calls
    assert calls == [(s, stage, 2 if stage == "train" else 1) for s in range(2) for stage in STAGES]
    said = capsys.readouterr().out
    assert "segment 2/2: train" in said
    assert (
        said.count("1 comparisons, 1 ties, 1 without a verdict, 1 of them unfinished, 1 cut to fit the judge's window")
        == 2
    )
    assert driven(tmp_path, monkeypatch, [], **changes).calls == []


def test_a_script_gets_the_unfinished_stages(tmp_path, monkeypatch):
    checks: list[int | None] = []
    monkeypatch.setattr(online_driver, "check_and_report", lambda config, gpus: checks.append(gpus))
    driven(tmp_path / "run", monkeypatch, [], onmcpo__segments=1)
    assert checks == [None]
    for segment, stage in ((0, "train"), (0, "judge")):
        dry_run(config(tmp_path / "run", onmcpo__segments=1), 8, tmp_path / "listing")
        (tmp_path / "run" / "segments" / str(segment) / f"{stage}.json").unlink()
    assert (tmp_path / "listing").read_text() == "0 1 all train\n" and checks == [None, 8]
    dry_run(config(tmp_path / "other"), 8, tmp_path / "listing")
    rows = [line.split() for line in (tmp_path / "listing").read_text().splitlines()]
    launches = {"export": "one", "generate": "servers", "judge": "servers", "train": "all"}
    assert rows == [[str(number), "2", launch, stage] for number in range(2) for stage, launch in launches.items()]


def test_what_a_stage_leaves(tmp_path):
    """A flat JSON object; null, and fields that an earlier version did not write, are read as NaN."""
    run = OnlineRun(config(tmp_path))
    for stage in ("export", "generate"):
        run.run(0, stage, lambda stage=stage: result(stage))
    run.run(0, "judge", lambda: Ranked(5, 1, 0, 0, 0, math.nan, 4, 1, 0.75))
    mark = tmp_path / "segments" / "0" / "judge.json"
    known = json.loads(mark.read_text())
    counts = {"comparisons": 5, "ties": 1, "failures": 0, "unfinished": 0, "cut": 0, "prompts": 4, "without_choice": 1}
    assert known == counts | {"first_place": None, "win_rate": 0.75, "seconds": known["seconds"]}
    mark.write_text(json.dumps({"prompts": 4, "first_place": None, "seconds": 2.5, "key of another version": 1}))
    left = run.finished(0, "judge")
    assert (left.seconds, left.result.prompts) == (2.5, 4)
    assert math.isnan(left.result.first_place) and math.isnan(left.result.cut)
    facts = run.run(0, "train", lambda: Trained(1.0, 2.0)).facts()
    assert (facts.pop("reference_seconds"), facts.pop("train_seconds"), list(facts)) == (1.0, 2.0, ["seconds"])


def test_a_killed_stage_is_restarted(tmp_path, monkeypatch):
    calls = driven(tmp_path, monkeypatch, [0, -9, STOPPED_EARLY, 0]).calls
    assert [stage for _, stage, _ in calls[:5]] == ["export", "generate", "generate", "generate", "judge"]


@pytest.mark.parametrize("code", [STOPPED_EARLY, -10])
def test_a_stop_ends_the_run(tmp_path, monkeypatch, code):
    """The running stage stopped early or was killed; nothing is restarted until the next command."""
    with pytest.raises(StoppedEarly, match="segment 0: generate"):
        driven(tmp_path, monkeypatch, [0, code], asks_at="generate")
    assert driven(tmp_path, monkeypatch, []).calls[0] == (0, "generate", 1)


def test_a_stop_does_not_hide_an_error(tmp_path, monkeypatch):
    with pytest.raises(StageFailedError, match="segment 0: generate failed"):
        driven(tmp_path, monkeypatch, [0, 1], asks_at="generate")


def test_a_stage_that_ended_in_time_is_the_last(tmp_path, monkeypatch):
    with pytest.raises(StoppedEarly, match="segment 0: judge"):
        driven(tmp_path, monkeypatch, [], asks_at="generate")


@pytest.mark.parametrize(("codes", "exit_code"), [([2], 2), ([1], 1), ([-9] * 4, 1)])
def test_errors_are_not_retried(tmp_path, monkeypatch, codes, exit_code):
    with pytest.raises(StageFailedError, match="segment 0: export failed") as raised:
        driven(tmp_path, monkeypatch, codes)
    assert raised.value.exit_code == exit_code
