# SPDX-License-Identifier: Apache-2.0
"""examples/train_gpt_onmcpo.py: the whole loop, killed and restarted at any moment, and bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.launch import command, environment, fork, metrics, run, without_time
from tests.support.online import FAKE_SERVER, TRAIN_ONLINE, drawn_keys, online_overrides, ranked, verdict_keys

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def whole(inputs) -> Path:
    """An uninterrupted run."""
    directory = inputs / "whole"
    done = run(TRAIN_ONLINE, online_overrides(inputs, directory))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "segment 2/2: train" in done.stdout and "chosen beats the mean candidate" in done.stdout
    return directory


def test_segments_are_one_run(whole):
    lines = metrics(whole)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["consumed_prompts"] for line in lines] == [4, 8, 12, 16]
    assert lines[0]["rewards/margin"] == 0.0  # the policy is its reference
    assert any(line["rewards/margin"] != 0.0 for line in lines[2:])  # but not in later segments
    keys = drawn_keys(whole)
    assert len(keys) == len(set(keys))
    for segment in range(2):
        own = {key[1] for key in keys if key[0] == segment}
        assert len(own) == 8  # two steps of four prompts
        assert len((whole / "segments" / str(segment) / "ranked.jsonl").read_text().splitlines()) == 8


def test_the_longest_answer_is_preferred(whole):
    for content in ranked(whole):
        for line in map(json.loads, content.splitlines()):
            assert [answer["rank"] for answer in line["responses"]] == list(range(1, 1 + len(line["responses"])))
            scores = [answer["score"] for answer in line["responses"] if "score" in answer]
            assert scores == sorted(scores, reverse=True)


def children(process: subprocess.Popen) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
    return [int(number) for number in found.split()]


def test_killed_at_any_moment(inputs, whole, tmp_path):
    """Kill the driver during generation, terminate it during training, then kill a stage: the run always resumes."""
    directory, arguments = tmp_path / "run", online_overrides(inputs, tmp_path / "run")
    signs = ("segments/0/samples/samples-00000.jsonl", "segments/0/judge.json", "segments/1/samples/manifest.json")
    for sign in signs:
        process = subprocess.Popen(
            command(TRAIN_ONLINE, arguments), env=environment(), stdout=subprocess.PIPE, text=True
        )
        while process.poll() is None and not (directory / sign).exists():
            time.sleep(0.02)
        assert process.poll() is None
        started = children(process)
        if sign != signs[-1]:
            process.send_signal(signal.SIGKILL if sign == signs[0] else signal.SIGTERM)
            process.communicate()
            assert process.returncode == (-signal.SIGKILL if sign == signs[0] else 75)
            deadline = time.monotonic() + 20.0
            while any(Path(f"/proc/{number}").exists() for number in started) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not any(Path(f"/proc/{number}").exists() for number in started)
    os.kill(started[0], signal.SIGKILL)  # the stage; the driver restarts it
    output, _ = process.communicate()
    assert process.returncode == 0 and "killed by signal 9; restarting" in output
    assert without_time(metrics(directory)) == without_time(metrics(whole))
    assert ranked(directory) == ranked(whole)
    keys = drawn_keys(directory)
    assert len(keys) == len(set(keys))


@pytest.mark.parallel
def test_tensor_parallel_training_and_servers(inputs, tmp_path):
    """Two servers generate, one judges, two processes train; servers run only during their stage."""
    program = f"[{sys.executable},{FAKE_SERVER}]"
    arguments = online_overrides(
        inputs,
        tmp_path / "run",
        **{
            "server@rollouts.server": "transformers",
            "server@judge.server": "transformers",
            "onmcpo__segments": 1,
            "trainer__mcpo__max_steps": 2,
            "model__tensor_model_parallel_size": 2,
            "rollouts__engine": "openai",
            "rollouts__server__command": program,
            "rollouts__server__replicas": 2,
            "judge__kind": "openai",
            "judge__server__model": inputs / "model",
            "judge__server__command": program,
            "judge__server__arguments": "[--judge]",
        },
    )
    done = run(TRAIN_ONLINE, arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]
    verdicts = verdict_keys(tmp_path / "run-cache")  # shared by all runs, since a directory identifies the judge
    assert len(verdicts) == len(set(verdicts)) > 0 and not verdict_keys(tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "segments" / "0" / "judge.json").read_text())
    assert facts["failures"] == facts["cut"] == 0 < facts["comparisons"] and 0.0 < facts["first_place"] < 1.0
    own = f"{FAKE_SERVER}.*({tmp_path}|{inputs})"
    assert subprocess.run(["pgrep", "-f", own], capture_output=True).stdout == b""


@pytest.mark.parametrize(
    ("changes", "key", "got"),
    [
        ({"judge__kind": "reward_model"}, "judge.reward_model", ""),
        ({"rollouts__max_tokens": 500}, "rollouts.max_tokens", "got 500"),
        ({"judge__rule": "length_rule:absent"}, "judge.rule", "got length_rule:absent"),
        ({"trainer__num_nodes": 2}, "trainer.num_nodes", "got 2"),
    ],
)
def test_bad_configurations(inputs, tmp_path, changes, key, got):
    done = fork(TRAIN_ONLINE, online_overrides(inputs, tmp_path / "run", **changes))
    assert done.returncode == 2
    assert f"error: {key}: " in done.stderr and got in done.stderr


def test_another_run_in_the_same_directory_is_refused(inputs, whole):
    done = fork(TRAIN_ONLINE, online_overrides(inputs, whole, rollouts__redraws=1))
    assert done.returncode == 2
    assert "error: rollouts.redraws: " in done.stderr and "(got 1, " in done.stderr


def test_a_segment_starts_from_the_checkpoint_of_its_first_step(inputs, whole, tmp_path):
    """An older checkpoint is not exported in place of a damaged one."""
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "segments" / "1")
    arguments = [*online_overrides(inputs, tmp_path / "run"), "--stage", "export", "--segment", "1"]
    done = fork(TRAIN_ONLINE, arguments)
    assert done.returncode == 1
    assert "segment 1 starts from is missing" in done.stderr
    assert "(got newest complete checkpoint at step 4, expected a checkpoint at step 2)" in done.stderr


def test_a_stage_out_of_turn_is_refused(inputs, tmp_path):
    done = fork(TRAIN_ONLINE, [*online_overrides(inputs, tmp_path / "run"), "--stage", "judge", "--segment", "0"])
    assert done.returncode == 1
    assert "generate is not finished" in done.stderr
