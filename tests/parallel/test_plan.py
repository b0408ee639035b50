# SPDX-License-Identifier: Apache-2.0
"""The plan of every rank, against small models that really train in these layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.planning.activations import CPU
from nemo_mcpo.planning.memory import stage_memory
from nemo_mcpo.planning.parameters import checkpoint_bytes
from nemo_mcpo.planning.workload import BYTES, rows_of
from tests.support.launch import fork
from tests.support.planned import ARCHITECTURES, DATA, LAYOUTS, MEASURED, layout_of

PROGRAM = Path(__file__).with_name("plan_against_run.py")
CASES = [(layout, model) for layout, models in MEASURED.items() for model in models]

pytestmark = pytest.mark.parallel


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The directory with every LAYOUT/MODEL-PRECISION/RANK.json."""
    directory = tmp_path_factory.mktemp("plan")
    done = fork(PROGRAM, [str(directory), *LAYOUTS], processes=2)
    assert done.returncode == 0, done.stderr[-5000:]
    return directory


def ranks(measured: Path, layout: str, model: str) -> list[tuple[dict, object]]:
    """Yield, for every rank, what was measured and the planned memory of its stage."""
    name, precision, *compact = model.split("-")
    found = [json.loads(file.read_text()) for file in sorted((measured / layout / model).glob("*.json"))]
    assert len(found) == 2
    pairs = []
    for one in found:
        planned = replace(
            layout_of(LAYOUTS[layout], data=one["data"]),
            itemsize=BYTES[precision],
            moment_itemsize=2 if compact else 4,
        )
        operators = CPU if precision == "32" else replace(CPU, norm=5)
        rows = rows_of(planned, DATA)
        pairs.append((one, stage_memory(ARCHITECTURES[name], planned, rows, one["stage"], operators)))
    return pairs


@pytest.mark.parametrize(("layout", "model"), CASES)
def test_parameters_and_states_are_exact(measured, layout, model):
    for rank, (found, memory) in enumerate(ranks(measured, layout, model)):
        assert found["parameters"] == memory.parameters
        assert found["weights"] == memory.weights
        assert found["gradients"] == memory.gradients
        # The first replica holds what all replicas send, the others only what they send.
        assert found["saving"] == memory.saving / (1 + found["data"] if rank % found["data"] else 1)
        # Padding between parameters belongs to no parameter: the optimizer has no states for it.
        assert memory.optimizer * 0.99 <= found["optimizer"] <= memory.optimizer


@pytest.mark.parametrize(("layout", "model"), CASES)
def test_peak_activations(measured, layout, model):
    for found, memory in ranks(measured, layout, model):
        assert memory.activations == pytest.approx(found["activations"], rel=0.05)


@pytest.mark.parametrize(("layout", "model"), CASES)
def test_a_checkpoint_has_the_planned_size(measured, layout, model):
    name, precision, *_ = model.split("-")
    size = sum(file.stat().st_size for file in (measured / layout / model / "checkpoint").iterdir())
    planned = checkpoint_bytes(ARCHITECTURES[name].num_parameters, BYTES[precision])
    assert planned == pytest.approx(size, rel=0.02)


def test_every_family_is_measured():
    assert {architecture.family for architecture in ARCHITECTURES.values()} | {"mistral"} == set(FAMILIES)
