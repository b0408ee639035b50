# SPDX-License-Identifier: Apache-2.0
"""generation_config.json: keeps its end tokens and neutralizes every setting that changes what is sampled.

Models ship with penalties and limits for their chat demos (Qwen2.5: repetition_penalty 1.05, top_k 20, top_p 0.8). A
program that applies them samples from a different distribution than the one that is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.checkpoint import read_json

GENERATION_CONFIG = "generation_config.json"

CHANGES_SAMPLES = frozenset(
    (
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        *("repetition_penalty", "encoder_repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "length_penalty", "diversity_penalty"),
        *("exponential_decay_length_penalty", "penalty_alpha", "bad_words_ids", "force_words_ids", "constraints"),
        *("suppress_tokens", "begin_suppress_tokens", "sequence_bias", "logit_bias", "forced_bos_token_id"),
        *("forced_eos_token_id", "forced_decoder_ids", "guidance_scale", "watermarking_config", "dola_layers"),
        *("renormalize_logits", "remove_invalid_values", "token_healing", "num_beams", "num_beam_groups"),
        *("num_return_sequences", "early_stopping", "low_memory", "max_length", "max_new_tokens", "min_length"),
        *("min_new_tokens", "max_time", "stop_strings", "stop", "custom_generate", "is_assistant"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "use_mtp"),
        *("cache_implementation", "cache_config"),  # a quantized cache changes the logits
        "_from_model_config",  # makes transformers 4 override the file with config.json
    )
)
"""Keys of transformers 4 and 5 and of servers that select, change or cut what is generated."""


def neutral_settings(vocab_size: int) -> dict[str, object]:
    """Return neutral values for the keys whose defaults are not neutral in every program.

    Without ``do_sample`` transformers decodes greedily; without ``top_k`` it samples from the best 50 tokens. Some
    servers reject 0 for "all tokens", but all accept the size of the vocabulary.
    """
    neutral = {"temperature": 1.0, "top_k": vocab_size, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    return {"do_sample": True, **neutral}


def neutralized(settings: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return a generation_config.json without settings that change what is sampled; other keys are kept.

    >>> neutralized({"eos_token_id": 2, "top_k": 20, "bad_words_ids": [[5]]}, 300)["eos_token_id"]
    2
    """
    return {key: value for key, value in settings.items() if key not in CHANGES_SAMPLES} | neutral_settings(vocab_size)


def end_tokens(directory: Path, *more: int | None) -> list[int]:
    """Return the end tokens of generation_config.json and config.json, then ``more``, without duplicates.

    Raises:
        CheckpointError: a file is damaged, or an end token is not a token id.
    """
    ends: list[int] = []
    for path in (directory / GENERATION_CONFIG, directory / "config.json"):
        declared = read_json(path).get("eos_token_id") if path.exists() else None
        for token in declared if isinstance(declared, list) else [declared]:
            if isinstance(token, bool) or not isinstance(token, int | None):
                raise CheckpointError(
                    "not a token id", where=f"{path}: eos_token_id", got=repr(token), fix="give an integer token id"
                )
            if token is not None and token >= 0:  # some models use -1 for none
                ends.append(token)
    return list(dict.fromkeys([*ends, *(token for token in more if token is not None)]))
