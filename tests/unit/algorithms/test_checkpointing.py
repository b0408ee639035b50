# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or not there, the right ones kept, refused when they are another run's.

Writing weights is ``models/sharded_state.py`` and has its own tests; here a small file stands for them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nemo_mcpo.algorithms import checkpointing
from nemo_mcpo.algorithms.checkpointing import CheckpointManager, TrainerState, check_identity, read_state
from nemo_mcpo.errors import CheckpointError, MemoryExhaustedError
from nemo_mcpo.models.checkpoint_files import CHECKPOINT_MARK
from tests.support.full_disk import full_disk

MODEL = SimpleNamespace(
    architecture=SimpleNamespace(num_parameters=1000), layout=SimpleNamespace(dtype=torch.float32), loaded=[]
)
IDENTITY = {"data or tokenizer": "abc", "model.seed": 1}

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model's directory, of which only the small files belong into a checkpoint."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "tokenizer.model", "merges.txt"):
        (directory / name).write_text(name)
    for name in ("model.safetensors", "model.safetensors.index.json", "README.md"):
        (directory / name).write_text("large")
    (directory / "original").mkdir()
    return directory


@pytest.fixture
def make(tmp_path, source, monkeypatch):
    """Makes a manager of ``tmp_path/checkpoints`` whose weights are one small file."""

    def save(model, directory: Path) -> None:
        (directory / "__0_0.distcp").write_text("weights")

    monkeypatch.setattr(checkpointing, "save_sharded_state", save)

    def manager(keep_last: int = 2, keep_best: int = 0, monitor: str = "val_loss") -> CheckpointManager:
        return CheckpointManager(
            tmp_path / "checkpoints", keep_last=keep_last, keep_best=keep_best, monitor=monitor, source_files=source
        )

    return manager


def state(step: int, monitored: float | None = None, monitor: str = "val_loss") -> TrainerState:
    validation = {} if monitored is None else {monitor: monitored, "val_other": -monitored}
    return TrainerState(step, 16 * step, 1, IDENTITY, {"num_steps": step}, validation)


def names(manager: CheckpointManager) -> list[str]:
    return sorted(path.name for path in manager.directory.iterdir())


def save_all(manager: CheckpointManager, monitored: list[float | None]) -> list[int]:
    """Save steps 1, 2, … and give the steps that are kept."""
    for step, value in enumerate(monitored, start=1):
        manager.save(MODEL, state(step, value, manager.monitor))
    return [found.step for found, _ in manager.complete()]


def test_what_is_in_a_checkpoint(make):
    path = make().save(MODEL, state(20, 0.5))
    assert path.name == "step-00000020"
    assert read_state(path) == state(20, 0.5)
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    small = ["chat_template.jinja", "config.json", "merges.txt", "tokenizer.json", "tokenizer.model"]
    assert files == sorted(
        ["__0_0.distcp", CHECKPOINT_MARK, "contents.json", *(f"huggingface/{name}" for name in small)]
    )


def test_it_has_its_name_only_when_everything_is_written(make, monkeypatch):
    manager = make()
    seen = []

    def save(model, directory: Path) -> None:
        seen.append((directory.name, names(manager)))

    monkeypatch.setattr(checkpointing, "save_sharded_state", save)
    manager.save(MODEL, state(3))
    assert seen == [("step-00000003.incomplete", ["step-00000003.incomplete"])]
    assert names(manager) == ["step-00000003"]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "monitor", "monitored", "kept"),
    [
        (1, 0, "val_loss", [3.0, 1.0, 2.0], [3]),
        (2, 0, "val_loss", [3.0, 1.0, 2.0, 4.0], [3, 4]),
        (1, 1, "val_loss", [3.0, 1.0, 2.0, 4.0], [2, 4]),
        (1, 1, "val_rewards/margin", [3.0, 5.0, 2.0, 4.0], [2, 4]),
        (2, 2, "val_loss", [1.0, 2.0, 9.0, 8.0, 7.0], [1, 2, 4, 5]),
        (1, 1, "val_loss", [None, None, None], [3]),
        (1, 1, "val_loss", [None, 1.0, None, None], [2, 4]),
        (10, 0, "val_loss", [None] * 4, [1, 2, 3, 4]),
    ],
)
def test_which_are_kept(make, keep_last, keep_best, monitor, monitored, kept):
    manager = make(keep_last, keep_best, monitor)
    assert save_all(manager, monitored) == kept
    assert names(manager) == [f"step-{step:08d}" for step in kept]


def test_oldest_first_by_what_is_inside_and_not_by_name(make):
    manager = make(keep_last=9)
    save_all(manager, [None, None, None])
    (manager.directory / "step-00000003").rename(manager.directory / "a-copy")
    (manager.directory / "notes").mkdir()
    (manager.directory / "a-file").touch()
    assert [(found.step, path.name) for found, path in manager.complete()] == [
        (1, "step-00000001"),
        (2, "step-00000002"),
        (3, "a-copy"),
    ]


def test_leftovers_are_removed_at_the_start_and_never_loaded(make):
    manager = make()
    save_all(manager, [None])
    leftover = manager.directory / "step-00000009.incomplete"
    leftover.mkdir()
    (leftover / CHECKPOINT_MARK).write_text(json.dumps(dataclasses.asdict(state(9))))
    assert [found.step for found, _ in manager.complete()] == [1]
    assert names(make()) == ["step-00000001"]


def test_the_same_step_again_replaces(make):
    manager = make()
    manager.save(MODEL, state(1, 5.0))
    manager.save(MODEL, state(1, 4.0))
    assert [found.validation["val_loss"] for found, _ in manager.complete()] == [4.0]


@pytest.mark.parametrize("stage", ["weights", "small files"])
def test_a_save_that_fails_keeps_the_earlier_ones(make, monkeypatch, stage):
    manager = make()
    save_all(manager, [None, None])

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save_sharded_state" if stage == "weights" else "_copy_source_files", full_disk)
        with pytest.raises(CheckpointError) as caught:
            manager.save(MODEL, state(3))
    error = caught.value
    assert str(error.where) == str(manager.directory / "step-00000003") and "No space left on device" in str(error.got)
    assert "the last good checkpoint" in error.fix and "\n" not in str(error)
    assert names(manager) == ["step-00000001", "step-00000002"]
    manager.save(MODEL, state(3))
    assert names(manager) == ["step-00000002", "step-00000003"]


def test_a_save_that_does_not_fit_into_memory_leaves_nothing_half_written(make, monkeypatch):
    manager = make()
    save_all(manager, [None])

    def too_much(model, directory: Path) -> None:
        (directory / "__0_0.distcp").write_text("half of the weights")
        raise MemoryExhaustedError("out of memory", where="writing a checkpoint")

    monkeypatch.setattr(checkpointing, "save_sharded_state", too_much)
    with pytest.raises(MemoryExhaustedError) as caught:
        manager.save(MODEL, state(2))
    assert caught.value.where == "writing a checkpoint"
    assert names(manager) == ["step-00000001"]


def test_a_disk_that_is_visibly_too_small_is_refused_before_writing(make, monkeypatch):
    manager = make()
    # A float32 weight, its float32 copy and two moments: 16 bytes per parameter, plus 5 %.
    needed = 1.05 * 1000 * (4 + 4 + 4 + 4)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(checkpointing.shutil, "disk_usage", lambda path: usage(needed - 1))
    with pytest.raises(CheckpointError, match="could not be written"):
        manager.save(MODEL, state(1))
    assert names(manager) == []
    monkeypatch.setattr(checkpointing.shutil, "disk_usage", lambda path: usage(needed))
    manager.save(MODEL, state(1))
    assert names(manager) == ["step-00000001"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 1}', '{"unknown": 1}'])
def test_a_state_that_cannot_be_read(make, content, caplog):
    manager = make()
    save_all(manager, [None, None])
    broken = manager.directory / "step-00000002"
    (broken / CHECKPOINT_MARK).write_text(content)
    assert manager.newest()[0].step == 1
    assert f"{broken} is damaged (" in caplog.text
    assert [found.step for found, _ in manager.complete()] == [1]
    with pytest.raises(CheckpointError):
        read_state(broken)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("__0_0.distcp", "weig", "__0_0.distcp has 4 bytes instead of 7"),
        ("huggingface/config.json", None, "huggingface/config.json is missing"),
        ("contents.json", "{", "JSONDecodeError("),
    ],
)
def test_a_damaged_one_is_replaced_by_the_one_before(make, caplog, name, content, problem):
    manager = make(keep_last=3)
    save_all(manager, [None, None, None])
    for step, found in ((3, 2), (2, 1)):
        file = manager.directory / f"step-{step:08d}" / name
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        assert manager.newest()[0].step == found
        assert f"step-{step:08d} is damaged ({problem}" in caplog.text
    manager.keep_last = 1  # damaged ones must not push out the whole one
    manager.save(MODEL, state(2))  # training comes there again
    assert manager.newest()[0].step == 2


@pytest.mark.parametrize("name", ["__0_0.distcp", CHECKPOINT_MARK])
def test_nothing_starts_over_where_all_are_damaged(make, name):
    manager = make()
    assert manager.newest() is None
    save_all(manager, [None])
    (manager.directory / "step-00000001" / name).write_text("")
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        manager.newest()


def test_loading_gives_the_state(make, monkeypatch):
    manager = make()
    path = manager.save(MODEL, state(7, math.pi))
    calls = []
    monkeypatch.setattr(checkpointing, "load_sharded_state", lambda model, path: calls.append(path))
    assert manager.load(MODEL, path) == state(7, math.pi)
    assert calls == [path]


@pytest.mark.parametrize("name", IDENTITY)
def test_another_run_is_refused(tmp_path, name):
    check_identity(state(1), dict(IDENTITY), tmp_path)
    with pytest.raises(CheckpointError) as caught:
        check_identity(state(1), IDENTITY | {name: "other"}, tmp_path)
    error = caught.value
    assert (error.where, error.got, error.expected) == (str(tmp_path), "other", IDENTITY[name])
    assert name in error.what and "exp_manager.explicit_log_dir" in error.fix
