# SPDX-License-Identifier: Apache-2.0
"""generation_config.json of an export does not change what is sampled."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import pytest
from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.generation_settings import CHANGES_SAMPLES, end_tokens, neutral_settings, neutralized

QWEN = {
    **{"bos_token_id": 1, "pad_token_id": 1, "eos_token_id": [2, 1], "transformers_version": "4.37.0"},
    **{"do_sample": False, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "min_p": 0.1},
}
KEPT = ("bos_token_id", "pad_token_id", "eos_token_id", "transformers_version")
UNCHANGING = {
    # Token ids, what is returned, exact caches, and speculation, which samples from the same distribution.
    *("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id", "transformers_version", "use_cache"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("return_legacy_cache", "prefill_chunk_size", "compile_config", "disable_compile", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind"),
}


def test_ids_are_kept_and_the_rest_is_neutral():
    found = neutralized(QWEN | {"note": "théâtre"}, 300)
    assert found == {key: QWEN[key] for key in KEPT} | {"note": "théâtre"} | neutral_settings(300)
    assert found["top_k"] == 300, "0 and no top_k at all mean 50 to some programs"


@pytest.mark.parametrize("key", sorted(CHANGES_SAMPLES - neutral_settings(1).keys()))
def test_settings_that_change_samples_are_removed(key):
    assert key not in neutralized({key: 5}, 300)


def test_every_setting_that_transformers_has_is_known():
    """A new setting must be classified."""
    assert GenerationConfig().to_dict().keys() - {"_from_model_config"} <= CHANGES_SAMPLES | UNCHANGING
    assert not CHANGES_SAMPLES & UNCHANGING


def test_transformers_samples_with_it():
    config = GenerationConfig(**neutralized(QWEN, 300))
    config.validate(strict=True)
    assert config.get_generation_mode() == GenerationMode.SAMPLE
    assert config.to_diff_dict().keys() <= {*KEPT, *neutral_settings(300)}


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        (None, {}, []),
        ({}, {"eos_token_id": 2}, [2]),
        ({"eos_token_id": [2, 5]}, {"eos_token_id": 2}, [2, 5]),
        ({"eos_token_id": 5}, {"eos_token_id": [2, 5]}, [5, 2]),
        ({"eos_token_id": None}, {"eos_token_id": -1}, []),
    ],
)
def test_ends_are_those_of_both_files(tmp_path, generation, config, ends):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert end_tokens(tmp_path) == ends
    assert end_tokens(tmp_path, 2, None, 7) == list(dict.fromkeys([*ends, 2, 7]))


@pytest.mark.parametrize(
    ("text", "key", "got", "fix"),
    [
        ("", "", "Expecting value*", "download the file again, or delete it"),
        ("[]", "", "a list", "download the file again"),
        ('{"eos_token_id": "</s>"}', ": eos_token_id", "'</s>'", "give an integer token id"),
        ('{"eos_token_id": [2, true]}', ": eos_token_id", "True", "give an integer token id"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text, key, got, fix):
    file = tmp_path / "generation_config.json"
    file.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        end_tokens(tmp_path)
    assert (caught.value.where, caught.value.fix) == (f"{file}{key}", fix)
    assert fnmatchcase(str(caught.value.got), got)
