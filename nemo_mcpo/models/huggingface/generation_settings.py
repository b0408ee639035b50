# SPDX-License-Identifier: Apache-2.0
"""generation_config.json: its end tokens are kept, and nothing else in it changes what is sampled.

Models ship with penalties and limits for their chat demos (Qwen2.5: repetition_penalty 1.05, top_k 20, top_p 0.8). A
program that follows them draws from another distribution than the one that is trained.
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
        *("cache_implementation", "cache_config"),  # a quantized cache is another model
        "_from_model_config",  # with which transformers 4 replaces the file's values by those of config.json
    )
)
"""Keys that choose, change or cut what is generated, of transformers 4 and 5 and of servers."""


def neutral_settings(vocab_size: int) -> dict[str, object]:
    """The keys whose absence is not neutral everywhere.

    Without ``do_sample`` transformers answers greedily, without ``top_k`` it draws from the best 50 tokens, and 0 for
    all of them is refused by some servers: the size of the vocabulary means all to each.
    """
    neutral = {"temperature": 1.0, "top_k": vocab_size, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    return {"do_sample": True, **neutral}


def neutralized(settings: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """A generation_config.json with everything that does not change what is sampled as it was.

    >>> neutralized({"eos_token_id": 2, "top_k": 20, "bad_words_ids": [[5]]}, 300)["eos_token_id"]
    2
    """
    return {key: value for key, value in settings.items() if key not in CHANGES_SAMPLES} | neutral_settings(vocab_size)


def end_tokens(directory: Path, *more: int | None) -> list[int]:
    """The end tokens that generation_config.json and config.json declare, then ``more``, each once.

    Raises:
        CheckpointError: a file that is damaged, or an end that is no token.
    """
    ends: list[int] = []
    for path in (directory / GENERATION_CONFIG, directory / "config.json"):
        declared = read_json(path).get("eos_token_id") if path.exists() else None
        for token in declared if isinstance(declared, list) else [declared]:
            if isinstance(token, bool) or not isinstance(token, int | None):
                raise CheckpointError(
                    "not a token id", where=f"{path}: eos_token_id", got=repr(token), fix="write the token's number"
                )
            if token is not None and token >= 0:  # some write -1 for none
                ends.append(token)
    return list(dict.fromkeys([*ends, *(token for token in more if token is not None)]))
