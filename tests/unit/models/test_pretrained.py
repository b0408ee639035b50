# SPDX-License-Identifier: Apache-2.0
"""The initial policy is a Hugging Face directory, a ``.nemo`` file or a checkpoint; anything else is refused."""

from __future__ import annotations

import json
import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models import pretrained
from nemo_mcpo.models.checkpoint_files import CHECKPOINT_MARK, note_contents
from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.pretrained import NEMO_FOLDER, hash_pretrained, open_pretrained
from nemo_mcpo.models.sharded_state import save_sharded_state
from tests.support.small_gpt import MCPO, parameters_of, small_model, trainable_model
from tests.support.trees import preference_batch, random_trees


@pytest.fixture
def archive(llama_directory, tmp_path: Path) -> Path:
    """A ``.nemo`` file: a tar archive with the model's directory inside."""
    with tarfile.open(tmp_path / "model.nemo", "w") as tar:
        tar.add(llama_directory, arcname=NEMO_FOLDER)
    return tmp_path / "model.nemo"


@pytest.fixture
def checkpoint(one_process, llama_directory, tmp_path: Path) -> Path:
    """A checkpoint as training writes it."""
    directory = tmp_path / "step-00000001"
    directory.mkdir()
    model = trainable_model(llama_directory)
    model.get_loss_and_metrics(preference_batch(random_trees([3, 2])), MCPO)
    model.finish_training_step(2)
    save_sharded_state(model, directory)
    torch.save(parameters_of(model), tmp_path / "weights.pt")
    shutil.copytree(llama_directory, directory / NEMO_FOLDER, ignore=shutil.ignore_patterns("*.safetensors"))
    (directory / CHECKPOINT_MARK).write_text("{}")
    return directory


def refusal(path: Path, cache: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_pretrained(str(path), str(cache))
    return caught.value


def test_a_hugging_face_directory(llama_directory, tmp_path):
    opened = open_pretrained(str(llama_directory), str(tmp_path))
    assert (opened.files, opened.weights, opened.is_distributed) == (llama_directory, llama_directory, False)
    assert opened.architecture.vocab_size == 300
    assert hash_pretrained(opened) == hash_weights(llama_directory)
    assert list(tmp_path.iterdir()) == []


def test_a_nemo_file_is_unpacked_once(archive, llama_directory, tmp_path):
    opened = open_pretrained(str(archive), str(tmp_path / "cache"))
    assert opened.is_distributed is False
    assert opened.files == opened.weights
    assert (tmp_path / "cache") in opened.files.parents
    assert hash_pretrained(opened) == hash_weights(llama_directory)
    mark = opened.files / "mark"
    mark.touch()
    assert open_pretrained(str(archive), str(tmp_path / "cache")) == opened
    assert mark.exists()


def test_a_changed_nemo_file_is_unpacked_again(archive, llama_directory, tmp_path):
    first = open_pretrained(str(archive), str(tmp_path / "cache"))
    with tarfile.open(archive, "a") as tar:
        tar.add(llama_directory / "config.json", arcname="another.json")
    assert open_pretrained(str(archive), str(tmp_path / "cache")).files != first.files


def test_processes_that_open_the_same_file_at_once_unpack_it_once(archive, tmp_path, monkeypatch):
    """All processes of a launch open the archive before process groups exist."""
    extract = pretrained._extract
    calls = []

    def slow(archive, target):
        calls.append(target)
        time.sleep(0.2)
        extract(archive, target)

    monkeypatch.setattr(pretrained, "_extract", slow)
    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(lambda _: open_pretrained(str(archive), str(tmp_path / "cache")), range(3)))
    assert len(calls) == 1
    assert len({one.files for one in opened}) == 1
    assert (opened[0].files / "config.json").is_file()


def test_a_log_directory_means_its_newest_checkpoint(checkpoint, tmp_path):
    log_dir = tmp_path / "run"
    for name, step in (("step-00000009", 1), ("step-00000003", 2), ("step-00000004.incomplete", 3)):
        shutil.copytree(checkpoint, log_dir / "checkpoints" / name)
        (log_dir / "checkpoints" / name / CHECKPOINT_MARK).write_text(json.dumps({"step": step}))
        note_contents(log_dir / "checkpoints" / name)
    assert open_pretrained(str(log_dir), str(tmp_path)).weights == log_dir / "checkpoints" / "step-00000003"
    next((log_dir / "checkpoints" / "step-00000003").glob("*.distcp")).unlink()
    assert open_pretrained(str(log_dir), str(tmp_path)).weights == log_dir / "checkpoints" / "step-00000009"


def test_a_checkpoint_of_an_earlier_run(checkpoint, llama_directory, tmp_path):
    opened = open_pretrained(str(checkpoint), str(tmp_path))
    assert (opened.files, opened.weights, opened.is_distributed) == (checkpoint / NEMO_FOLDER, checkpoint, True)
    expected = torch.load(tmp_path / "weights.pt", weights_only=True)
    model = small_model(llama_directory)
    model.load_pretrained(opened)
    assert all(torch.equal(value, expected[name]) for name, value in parameters_of(model).items())
    assert model.source_files == opened.files


def test_the_hash_of_a_checkpoint_follows_its_weights(checkpoint, tmp_path):
    opened = open_pretrained(str(checkpoint), str(tmp_path))
    before = hash_pretrained(opened)
    (checkpoint / CHECKPOINT_MARK).write_text("{ }")
    assert hash_pretrained(opened) == before
    shard = sorted(checkpoint.glob("*.distcp"))[0]
    shard.write_bytes(shard.read_bytes() + b"x")
    assert hash_pretrained(opened) != before


@pytest.mark.parametrize("name", ["nothing", "model.bin"])
def test_nothing_there_and_another_kind_of_file(tmp_path, name):
    (tmp_path / "model.bin").touch()
    error = refusal(tmp_path / name, tmp_path)
    assert (error.where, error.got) == ("pretrained_checkpoint.restore_from_path", str(tmp_path / name))
    assert error.expected.startswith("a Hugging Face directory, a .nemo file, ") and error.fix


def test_a_directory_without_a_configuration(tmp_path):
    assert refusal(tmp_path, tmp_path).where == str(tmp_path / "config.json")


def test_a_nemo_file_that_is_not_an_archive(tmp_path):
    (tmp_path / "model.nemo").write_bytes(b"not a tar")
    error = refusal(tmp_path / "model.nemo", tmp_path / "cache")
    assert error.where == str(tmp_path / "model.nemo") and error.got and error.fix.startswith("copy the file again")


def test_a_truncated_nemo_file_is_refused_again_and_again(archive, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    for _ in range(2):
        assert refusal(archive, tmp_path / "cache").fix.startswith("copy the file again")


def test_a_nemo_file_of_another_program(tmp_path):
    (tmp_path / "model_weights.ckpt").touch()
    with tarfile.open(tmp_path / "model.nemo", "w") as tar:
        tar.add(tmp_path / "model_weights.ckpt", arcname="model_weights.ckpt")
    error = refusal(tmp_path / "model.nemo", tmp_path / "cache")
    assert error.expected.startswith(f"a folder {NEMO_FOLDER}/") and error.fix.startswith("convert the model ")


def test_a_nemo_file_cannot_write_outside(tmp_path):
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "model.nemo", "w") as tar:
        tar.add(tmp_path / "evil", arcname="../../escaped")
    assert refusal(tmp_path / "model.nemo", tmp_path / "cache").fix.startswith("copy the file again")
    assert not list(tmp_path.rglob("escaped"))


def test_a_nemo_file_with_a_link(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "model.nemo", "w") as tar:
        tar.add(tmp_path / "link", arcname=f"{NEMO_FOLDER}/config.json")
    assert "is a link or a device" in str(refusal(tmp_path / "model.nemo", tmp_path / "cache").got)
