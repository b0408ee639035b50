# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest

from nemo_mcpo.models.architecture import VOCAB_MULTIPLE
from nemo_mcpo.models.huggingface.config import read_architecture


@pytest.mark.parametrize(("size", "padded"), [(1, 128), (127, 128), (128, 128), (129, 256), (128256, 128256)])
def test_padded_vocabulary(llama_directory, size, padded):
    architecture = dataclasses.replace(read_architecture(llama_directory), vocab_size=size)
    assert architecture.padded_vocab_size == padded
    assert padded % VOCAB_MULTIPLE == 0
