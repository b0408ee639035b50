# SPDX-License-Identifier: Apache-2.0
"""Five steps in every layout equal one process, and every process draws the same negatives."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.support.launch import fork, metrics, overrides, write_inputs

PROGRAM = Path(__file__).with_name("train_layouts.py")
TENSOR, PIPELINE = "model__tensor_model_parallel_size", "model__pipeline_model_parallel_size"
INTERLEAVED, SEQUENCE = "model__virtual_pipeline_model_parallel_size", "model__sequence_parallel"
LAYOUTS: dict[str, tuple[int, dict[str, object]]] = {
    "one": (1, {}),
    "tp2": (2, {TENSOR: 2}),
    "tp2-sp": (2, {TENSOR: 2, SEQUENCE: "true"}),
    "pp2": (2, {PIPELINE: 2}),
    "interleaved": (2, {PIPELINE: 2, INTERLEAVED: 2}),
    "dp2": (2, {}),
    "tp2-pp2-sp": (4, {TENSOR: 2, PIPELINE: 2, SEQUENCE: "true"}),
}
"""Layout -> number of processes, and its overrides."""

CHAIN = {"model__mcpo__chain_steps": 3, "model__mcpo__chain_candidates": 2}
TWO_SCORED = {"model__mcpo__num_negatives": 1, "model__mcpo__scored_candidates": 2}
SMALL_PARTS = {"model__mcpo__scoring_tokens": 64, "model__micro_batch_tokens": 64}
"""Budgets that hold only a part of the batch."""

ALGORITHMS: dict[str, dict[str, object]] = {
    "mcpo": {"model__mcpo__num_negatives": 1, "model__mcpo__reuse_scoring": "false"},
    "products replayed": {"model__mcpo__num_negatives": 1, "model__mcpo__reuse_scoring": "true", **SMALL_PARTS},
    "layers replayed": {
        "model__mcpo__num_negatives": 1,
        "model__activations_checkpoint_granularity": "full",
        "model__mcpo__reuse_scoring": "true",
        **SMALL_PARTS,
    },
    "scores, ranks, statistics": {"model__mcpo__objective": "probe", "model__mcpo__num_negatives": 3},
    "two scored": {**TWO_SCORED, "model__mcpo__reuse_scoring": "false"},
    "two scored, replayed": {**TWO_SCORED, "model__mcpo__reuse_scoring": "true", **SMALL_PARTS},
    "three negatives, chain": {"model__mcpo__num_negatives": 3, **CHAIN},
    "states on the host": {
        "model__mcpo__num_negatives": 1,
        "model__mcpo__reuse_scoring": "false",
        "model__optim__cpu_offload": "true",
    },
}
SAME_NUMBERS = {
    "products replayed": "mcpo",
    "layers replayed": "mcpo",
    "states on the host": "mcpo",
    "two scored, replayed": "two scored",
}
"""Other modes, which must equal one process with two passes and torch's optimizer."""

RUNS = [
    *((layout, algorithm) for layout in LAYOUTS for algorithm in ("mcpo", "products replayed", "layers replayed")),
    *((layout, "three negatives, chain") for layout in ("one", "tp2", "dp2")),
    *((layout, "two scored") for layout in ("one", "tp2-pp2-sp")),
    *((layout, "two scored, replayed") for layout in ("one", "tp2-sp", "pp2", "dp2")),
    *((layout, "scores, ranks, statistics") for layout in ("one", "pp2", "dp2", "tp2-pp2-sp")),
    *((layout, "states on the host") for layout in ("one", "dp2", "tp2-pp2-sp")),
]
"""The runs: a layout and an algorithm."""

CLIP = 0.05
"""Below every gradient norm of these runs, so that every step clips."""

pytestmark = pytest.mark.parallel


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """The log directory of every algorithm in every layout, from one launch per number of processes."""
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    runs: dict[tuple[str, str], Path] = {}
    for processes in sorted({processes for processes, _ in LAYOUTS.values()}):
        plan = []
        for layout, algorithm in RUNS:
            wanted, keys = LAYOUTS[layout]
            if wanted != processes:
                continue
            directory = inputs / layout / algorithm.replace(",", "").replace(" ", "-")
            changes = keys | ALGORITHMS[algorithm] | {"trainer__mcpo__gradient_clip_val": CLIP}
            changes |= {"trainer__mcpo__save_interval": 0, "model__data__validation": inputs / "data.jsonl"}
            plan.append((str(directory), overrides(inputs, directory, **changes)))
            runs[layout, algorithm] = directory
        (inputs / "plan.json").write_text(json.dumps(plan))
        done = fork(PROGRAM, [str(inputs / "plan.json")], processes)
        assert done.returncode == 0, done.stderr[-5000:]
    return runs


@pytest.mark.parametrize(
    ("layout", "algorithm"), [pair for pair in RUNS if pair[0] != "one" or pair[1] in SAME_NUMBERS]
)
def test_equal_to_one_process(runs, layout, algorithm):
    expected, found = metrics(runs["one", SAME_NUMBERS.get(algorithm, algorithm)]), metrics(runs[layout, algorithm])
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["tokens"] == theirs["tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
        # These are differences of summed log-probs, whose rounding error does not shrink with the difference.
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margin"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=5e-5), name
        assert ours["rewards/accuracy"] == theirs["rewards/accuracy"] or ours["step"] == 1
    for name in (name for name in expected[-1] if name.startswith("val_")):
        assert found[-1][name] == pytest.approx(expected[-1][name], rel=1e-5, abs=5e-5), name


@pytest.mark.parametrize(("algorithm", "num_negatives"), [("mcpo", 1), ("three negatives, chain", 3)])
def test_the_runs_are_meaningful(runs, algorithm, num_negatives):
    lines = metrics(runs["one", algorithm])
    assert lines[0]["loss"] == pytest.approx(math.log(1 + num_negatives), abs=1e-4)
    assert abs(lines[-1]["loss"] - lines[0]["loss"]) > 0.01
    assert all(line["grad_norm"] > 2 * CLIP for line in lines)
    assert lines[-1]["kernel/ess"] < lines[0]["kernel/ess"] - 1e-3
    assert {len(completions) for _, completions in draws(runs["one", algorithm])[0]} == {1 + num_negatives}


def draws(directory: Path) -> list[list]:
    """Return, per process, the prompts of its replica and their drawn completions."""
    return [json.loads(file.read_text()) for file in sorted(directory.glob("draws-*.json"))]


@pytest.mark.parametrize(("layout", "algorithm"), RUNS)
def test_every_process_draws_the_same(runs, layout, algorithm):
    expected = dict(draws(runs["one", SAME_NUMBERS.get(algorithm, algorithm)])[0])
    found = draws(runs[layout, algorithm])
    assert len(expected) == metrics(runs["one", "mcpo"])[-1]["consumed_prompts"]  # no prompt appears twice
    assert len(found) == LAYOUTS[layout][0]
    drawn: dict[int, list] = {}
    for one in found:
        assert one == [[prompt_id, expected[prompt_id]] for prompt_id, _ in one]
        drawn |= dict(one)
    assert drawn == expected
