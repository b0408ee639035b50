# SPDX-License-Identifier: Apache-2.0
"""Import and export of a Hugging Face directory on several processes gives the same bytes as on one."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from tests.support.launch import fork
from tests.support.models import save_model

PROGRAM = Path(__file__).with_name("huggingface_round_trip.py")
MODELS = ("llama", "llama-tied-llama3-rope", "qwen2", "qwen3-tied")

pytestmark = pytest.mark.parallel


@pytest.mark.parametrize(
    ("num_processes", "layouts"),
    [(2, ["tp2:2:1:1", "pp2:1:2:1", "interleaved:1:2:2", "dp2:1:1:1"]), (4, ["tp2pp2:2:2:1", "tp4dp1:4:1:1"])],
)
def test_import_then_export_is_bit_identical(tmp_path, num_processes, layouts):
    for name in MODELS:
        save_model(tmp_path / "source" / name, name, num_hidden_layers=4, num_key_value_heads=4)
    done = fork(PROGRAM, [str(tmp_path), *layouts], num_processes)
    assert done.returncode == 0, done.stderr
    for layout in layouts:
        for name in MODELS:
            exported = tmp_path / layout.split(":")[0] / name
            assert hash_weights(exported) == hash_weights(tmp_path / "source" / name), exported
            assert len(list(exported.glob("*.safetensors"))) > 2


def test_a_full_disk_is_reported_by_every_process(tmp_path):
    save_model(tmp_path / "source" / "llama", "llama", num_hidden_layers=4)
    done = fork(PROGRAM, [str(tmp_path), "pp2:1:2:1", "--full-disk"], processes=2)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.count("CheckpointError: ") == 2
    assert not (tmp_path / "pp2" / "llama").exists()
