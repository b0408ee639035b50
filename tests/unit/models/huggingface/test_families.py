# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.huggingface.families import FAMILIES, tensor_shapes
from tests.support.models import MODELS, save_model


@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_those_of_transformers(tmp_path, name):
    model = save_model(tmp_path, name)
    architecture = read_architecture(tmp_path)
    expected = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    assert tensor_shapes(architecture) == expected
    assert architecture.num_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_unknown_parameter():
    with pytest.raises(CheckpointError, match="router"):
        FAMILIES["llama"].rule("decoder.layers.*.mlp.router.weight")
