# SPDX-License-Identifier: Apache-2.0
"""A step waits for the GPU once per part, for the draw, and at its end for the metrics and for the gradient norm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from nemo_mcpo.platform.transfer import on_device
from tests.support.small_run import small_trainer
from tests.support.waits import Waits

pytestmark = pytest.mark.gpu

STEPS: dict[str, dict[str, object]] = {
    "two passes": {"model__mcpo__reuse_scoring": False},
    "products replayed": {"model__mcpo__reuse_scoring": True},
    "layers replayed": {"model__mcpo__reuse_scoring": True, "model__activations_checkpoint_granularity": "full"},
    "states on the host": {"model__mcpo__reuse_scoring": False, "model__optim__cpu_offload": True},
    "DPO, nothing scored": {"model__mcpo__objective": "dpo", "model__mcpo__sampler": "random"},
    "SFT, nothing drawn": {"model__mcpo__objective": "sft", "model__mcpo__num_negatives": 0},
}
SMALL = {
    "trainer__precision": "bf16",
    "model__global_batch_size": 6,
    "model__micro_batch_tokens": 80,
    "model__mcpo__scoring_tokens": 120,
}
DRAW, METRICS = "nemo_mcpo/algorithms/negatives.py", "nemo_mcpo/models/megatron_gpt_mcpo_model.py"
NORM, STATES = "megatron/core/optimizer/clip_grads.py", "nemo_mcpo/models/adam.py"


@pytest.mark.parametrize("way", STEPS)
def test_a_step_waits_once_per_part_and_twice_at_its_end(one_process, llama_directory, tmp_path, way):
    trainer = small_trainer(tmp_path, llama_directory, **SMALL, **STEPS[way])
    trainer.train_single_step(trainer.next_step())  # one-time initialization happens here
    step = trainer.next_step()
    num_parts = len(trainer.model.parts(step.trees)) if trainer.sampling.reads_weights else 0
    assert num_parts == 0 if "nothing" in way else (num_parts > 1) == ("replayed" in way)
    with Waits() as waits:
        trainer.train_single_step(step)
    expected = {METRICS: 1, NORM: 1} | ({DRAW: num_parts} if num_parts else {})
    if way == "states on the host":  # an update ends once they are back
        expected[STATES] = 1
    assert waits.queued > 0
    assert waits.by_file() == expected, waits.places


def pinned() -> torch.Tensor:
    return torch.ones(4, pin_memory=True)


WAIT: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda ones: ones.sum().item(),
    "if": lambda ones: bool(ones.sum()),
    "equal": lambda ones: torch.equal(ones, ones),
    "tolist": lambda ones: ones.tolist(),
    "cpu": lambda ones: ones.cpu(),
    "to the host, not pinned": lambda ones: torch.empty(4).copy_(ones, non_blocking=True),
    "to the host, not queued": lambda ones: pinned().copy_(ones),
    "to the GPU, not pinned": lambda ones: torch.ones(4).to(ones.device, non_blocking=True),
    "to the GPU, not queued": lambda ones: ones.copy_(pinned()),
    "numbers": lambda ones: torch.tensor([1.0, 2.0], device=ones.device),
    "a list of scalars": lambda ones: torch.tensor([ones.sum()]),
    "nonzero": lambda ones: ones.nonzero(),
    "read by mask": lambda ones: ones[ones > 0],
    "written by mask": lambda ones: ones.index_put((ones > 0,), ones[:1]),
    "unique": lambda ones: torch.unique(ones),
    "repeats": lambda ones: torch.repeat_interleave(ones, ones.long()),
    "synchronize": lambda ones: torch.cuda.synchronize(),
    "stream": lambda ones: torch.cuda.current_stream().synchronize(),
}
NO_WAIT: dict[str, Callable[[torch.Tensor], object]] = {
    "queued to the GPU": lambda ones: ones.copy_(pinned(), non_blocking=True),
    "queued to the host": lambda ones: pinned().copy_(ones, non_blocking=True),
    "places": lambda ones: ones[torch.arange(2, device=ones.device)],
    "where": lambda ones: torch.where(ones > 0, ones, 0.0),
    "filled": lambda ones: torch.full((3,), 2.0, device=ones.device),
    "on the host": lambda ones: torch.ones(3).sum().item(),
    "repeats of a known number": lambda ones: torch.repeat_interleave(ones, ones.long(), output_size=4),
}


@pytest.mark.parametrize(("calls", "count"), [(WAIT, 1), (NO_WAIT, 0)])
def test_what_waits(calls, count):
    ones = torch.ones(4).cuda()
    for name, call in calls.items():
        with Waits() as waits:
            call(ones)
        assert Counter(waits.by_file()).total() == count, (name, waits.places)


def test_tensors_travel_in_one_copy():
    there, given = torch.ones(3).cuda(), [torch.arange(5), torch.empty(0), torch.tensor([True]), torch.randn(2, 3).t()]
    with Waits() as waits:
        found = on_device([given[0], there, *given[1:]], there.device)
    assert waits.queued == 1 and not waits.places
    assert found.pop(1) is there
    for one, expected in zip(found, given, strict=True):
        assert one.is_cuda and torch.equal(one.cpu(), expected)
