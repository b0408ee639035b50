# SPDX-License-Identifier: Apache-2.0
"""Rotary embeddings in both spellings of config.json."""

from __future__ import annotations

import pytest

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.rope import (
    SCALINGS,
    Rope,
    checked_scaling,
    read_rope,
    spelled_for_4,
    spelled_for_both,
)
from nemo_mcpo.trees.rotary import ROPE_SCALINGS
from tests.support.models import LLAMA3

LINEAR = {"rope_type": "linear", "factor": 2.0}
THETA = {"rope_theta": 500000.0}
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("config", "rope"),
    [
        ({}, Rope()),
        ({"rope_scaling": None, "rope_parameters": None}, Rope()),
        (THETA, Rope(500000.0)),
        (THETA | {"rope_scaling": LLAMA3}, Rope(500000.0, LLAMA3)),
        ({"rope_parameters": LLAMA3 | THETA}, Rope(500000.0, LLAMA3)),
        ({"rope_parameters": THETA}, Rope(500000.0)),
        ({"rope_parameters": THETA | {"rope_type": "default"}}, Rope(500000.0, {"rope_type": "default"})),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, Rope(None, LINEAR)),
        ({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}}, Rope(None, LINEAR)),
        # A base inside rope_scaling, which transformers 5 reads and transformers 4 ignores.
        ({"rope_scaling": LINEAR | THETA}, Rope(500000.0, LINEAR)),
        # A base beside rope_parameters without one.
        (THETA | {"rope_parameters": LINEAR}, Rope(500000.0, LINEAR)),
        (THETA | {"rope_scaling": LINEAR, "rope_parameters": LINEAR | THETA}, Rope(500000.0, LINEAR)),
        ({"rope_parameters": dict.fromkeys((FULL, SLIDING), LINEAR | THETA)}, Rope(500000.0, LINEAR)),
        ({"partial_rotary_factor": 0.5}, Rope(None, None, 0.5)),
        ({"rope_parameters": THETA | {"partial_rotary_factor": 0.5}}, Rope(500000.0, None, 0.5)),
    ],
)
def test_every_spelling_is_read(config, rope):
    assert read_rope(config, "config.json") == rope
    # transformers 4 never sees the newer spelling, but reads the same values.
    spelled = spelled_for_4(config, "config.json")
    assert spelled.get("rope_parameters") is None
    assert read_rope(spelled, "config.json") == rope
    assert "rope_theta" not in (spelled.get("rope_scaling") or {})


@pytest.mark.parametrize(
    ("config", "place", "got"),
    [
        ({"rope_theta": 1e4, "rope_parameters": THETA}, "", "10000.0 in config.json, 500000.0 in rope_parameters"),
        (
            {"rope_scaling": LINEAR, "rope_parameters": LLAMA3},
            "",
            f"{LINEAR} in rope_scaling, {LLAMA3} in rope_parameters",
        ),
        ({"rope_theta": 1e4, "rope_scaling": LINEAR | THETA}, "", "10000.0 in config.json, 500000.0 in rope_scaling"),
        (
            {"partial_rotary_factor": 1.0, "rope_parameters": {"partial_rotary_factor": 0.5}},
            "",
            "1.0 in config.json, 0.5 in rope_parameters",
        ),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "llama3"}},
            ": rope_scaling",
            "type: linear, rope_type: llama3",
        ),
        ({"rope_theta": "500000"}, ": rope_theta", "'500000'"),
        ({"rope_theta": True}, ": rope_theta", "True"),
        ({"rope_parameters": {"rope_theta": -1.0}}, ": rope_parameters: rope_theta", "-1.0"),
        ({"rope_scaling": ["linear", 2.0]}, ": rope_scaling", ["linear", 2.0]),
    ],
)
def test_ambiguous_values_are_refused(config, place, got):
    with pytest.raises(CheckpointError) as caught:
        read_rope(config, "FILE")
    assert (caught.value.where, caught.value.got) == (f"FILE{place}", got) and caught.value.fix


@pytest.mark.parametrize(
    "layers", [{FULL: LINEAR, SLIDING: LLAMA3}, {FULL: THETA, SLIDING: None}, {FULL: THETA, "rope_theta": 1e4}]
)
def test_layers_with_different_embeddings_are_refused(layers):
    with pytest.raises(CheckpointError) as caught:
        read_rope({"rope_parameters": layers}, "FILE")
    got = ", ".join(f"{name}: {one}" for name, one in layers.items())
    assert (caught.value.where, caught.value.got) == ("FILE: rope_parameters", got) and caught.value.fix


def test_older_files_and_parts_of_other_families():
    """The older spelling is kept unchanged; the newer one is also rewritten in nested configurations."""
    older = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1e6}
    assert spelled_for_4(older, "config.json") == older
    parts = {"text_config": {"rope_parameters": LINEAR | THETA, "hidden_size": 64}}
    assert spelled_for_4(parts, "config.json") == {
        "text_config": {"hidden_size": 64, "rope_theta": 500000.0, "rope_scaling": LINEAR}
    }


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3])
def test_what_is_written_agrees_with_itself(scaling):
    both = spelled_for_both(500000.0, scaling)
    assert checked_scaling(read_rope(both, "config.json").scaling, "") == scaling
    for keys in (("rope_theta", "rope_scaling"), ("rope_parameters",)):  # either spelling is enough alone
        alone = {key: both[key] for key in keys}
        assert read_rope(alone, "config.json").theta == 500000.0
        assert checked_scaling(read_rope(alone, "config.json").scaling, "") == scaling


def test_supported_scalings():
    assert SCALINGS.keys() == ROPE_SCALINGS.keys()
    assert checked_scaling(LINEAR | {"original_max_position_embeddings": 64}, "") == LINEAR
    assert checked_scaling({"rope_type": "default", "factor": 1.0}, "") is None


@pytest.mark.parametrize(
    ("scaling", "key", "got", "expected"),
    [
        ({"rope_type": "yarn", "factor": 4.0}, "", "yarn", "default, linear, llama3"),
        ({"rope_type": None, "factor": 4.0}, "", "no rope_type", "default, linear, llama3"),
        ({"rope_type": "linear"}, "", "linear without factor", "factor"),
        ({"rope_type": "linear", "factor": "2"}, ": factor", "'2'", None),
        (LLAMA3 | {"high_freq_factor": None}, "", "llama3 without high_freq_factor", ", ".join(SCALINGS["llama3"])),
        (LLAMA3 | {"low_freq_factor": 4.0}, "", "4.0 and 4.0", None),
        (LLAMA3 | {"attention_factor": 0.9}, "", "attention_factor: 0.9", ", ".join(SCALINGS["llama3"])),
        (LINEAR | {"llama_4_scaling_beta": 0.1}, "", "llama_4_scaling_beta: 0.1", "factor"),
        ({"rope_type": "default", "factor": 2.0}, "", "factor: 2.0", "none"),
    ],
)
def test_unsupported_scalings(scaling, key, got, expected):
    with pytest.raises(CheckpointError) as caught:
        checked_scaling(scaling, "FILE")
    error = caught.value
    assert (error.where, error.got, error.expected) == (f"FILE: rope_scaling{key}", got, expected) and error.fix
