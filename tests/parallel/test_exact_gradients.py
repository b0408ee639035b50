# SPDX-License-Identifier: Apache-2.0
"""In float64, every mode of the engine in every layout gives transformers' gradients on separate sequences."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from nemo_mcpo.algorithms.negatives import prune
from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.records import ObjectiveInputs, PromptTree
from tests.parallel.exact_gradients import BETA, LAYOUTS, WAYS
from tests.support.launch import fork, write_inputs
from tests.support.trees import random_trees

PROGRAM = Path(__file__).with_name("exact_gradients.py")
TOLERANCE = 1e-10
"""Tolerance relative to the largest gradient of a tensor."""

TREES = random_trees([5, 3, 6, 2, 4, 6, 5], seed=3, longest=9)
COLUMNS_BM = torch.tensor([[4, 2], [1, 2], [5, 1], [1, -1], [3, 1], [2, 4], [1, 3]])
"""Drawn negatives; -1 marks the end."""
REFERENCE_BK = -torch.arange(7 * 6, dtype=torch.float32).reshape(7, 6).mul(7).remainder(50)

pytestmark = pytest.mark.parallel


@pytest.fixture(scope="module")
def gradients(tmp_path_factory) -> Path:
    """The directory with every LAYOUT/WAY, and ``model``."""
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    (inputs / "batch.pickle").write_bytes(pickle.dumps((TREES, COLUMNS_BM, REFERENCE_BK)))
    for processes, layouts in ((1, ["one"]), (2, [name for name in LAYOUTS if name != "one"])):
        done = fork(PROGRAM, [str(inputs), *layouts], processes)
        assert done.returncode == 0, done.stderr[-5000:]
    return inputs


@pytest.fixture(scope="module")
def expected(gradients) -> dict[str, torch.Tensor]:
    """Gradients computed by transformers, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(gradients / "model", dtype=torch.float64)
    compute_norms_in_float64(model)
    model.model.embed_tokens.padding_idx = None  # otherwise this token, which random trees contain, gets no gradient
    batch = prune(TREES, COLUMNS_BM, REFERENCE_BK)
    width = batch.valid_BK.shape[1]
    logps = []
    for tree in batch.trees:
        known = [logp(model, tree, number) for number in range(len(tree.completions))]
        logps.append(torch.stack(known + [known[0].new_zeros(())] * (width - len(known))))
    objective = functools.partial(OBJECTIVES["mcpo"], beta=BETA)
    outputs = objective(ObjectiveInputs(torch.stack(logps), batch.ref_logps_BK, batch.lengths_BK, batch.valid_BK))
    outputs.loss.mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def compute_norms_in_float64(model: LlamaForCausalLM) -> None:
    """Replace transformers' RMSNorm, which computes in float32 for any dtype."""
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = functools.partial(
                lambda norm, hidden: torch.nn.functional.rms_norm(
                    hidden, norm.weight.shape, norm.weight, norm.variance_epsilon
                ),
                module,
            )


def logp(model: LlamaForCausalLM, tree: PromptTree, number: int) -> torch.Tensor:
    completion = torch.from_numpy(tree.completions[number]).long()
    tokens = torch.cat([torch.from_numpy(tree.prompt_tokens).long(), completion])
    logits = model(tokens[None]).logits[0, -1 - len(completion) : -1]
    return logits.log_softmax(-1).gather(1, completion[:, None]).sum()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(gradients, expected, layout, way):
    found = load_file(gradients / layout / way / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert expected[name].abs().max() > 1e-6  # the comparison is meaningful
        error = (tensor - expected[name]).abs().max() / expected[name].abs().max()
        assert error < TOLERANCE, f"{name}: {error:.1e}"
