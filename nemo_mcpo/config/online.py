# SPDX-License-Identifier: Apache-2.0
"""The additional keys of an online run (OnMC-PO); defaults are in ``gpt_onmcpo.yaml`` and ``server/*.yaml``."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from nemo_mcpo.config.schema import Fraction, NonNegative, Positive, RunConfig, Section
from nemo_mcpo.errors import ConfigError

Temperature = Annotated[float, Field(gt=0.0, le=2.0)]
Seconds = Annotated[float, Field(gt=0.0)]


class OnMCPO(Section):
    """``onmcpo``: the loop over segments."""

    segments: Positive
    restarts: NonNegative


class Server(Section):
    """``rollouts.server`` and ``judge.server``: OpenAI-compatible servers, already running or started by the run."""

    urls: list[str]
    model: str | None
    api_key_env: str | None
    concurrency: Positive
    timeout_seconds: Seconds
    retry_seconds: Seconds
    launcher: str
    prefix: list[str]
    command: Annotated[list[str], Field(min_length=1)]
    arguments: list[str]
    environment: list[str]
    replicas: Positive
    ready_seconds: Seconds
    tensor_parallel_size: Positive
    pipeline_parallel_size: Positive
    max_batch_size: Positive
    max_num_tokens: Positive
    max_seq_len: Positive
    kv_cache_fraction: Fraction
    kv_cache_dtype: Literal["auto", "fp8"]


def api_key(server: Server, section: str) -> str:
    """Return the API key from the environment variable that the configuration names.

    Raises:
        ConfigError: the variable is not set.
    """
    variable = server.api_key_env
    if variable is None:
        return "none"  # local servers need no key, but the client requires one
    if variable not in os.environ:
        fix = f"export {variable}"
        raise ConfigError("the variable is not set", where=f"{section}.api_key_env", got=variable, fix=fix)
    return os.environ[variable]


class Rollouts(Section):
    """``rollouts``: how the policy generates answers."""

    engine: str
    temperatures: Annotated[list[Temperature], Field(min_length=1)]
    samples: Positive
    redraws: NonNegative
    top_p: Fraction
    max_tokens: Positive
    batch_size: Positive
    server: Server


class Judge(Section):
    """``judge``: how the best answer is found."""

    kind: str
    identity: str | None
    rule: str | None
    reward_model: str | None
    both_orders: bool
    attempts: Positive
    max_tokens: Positive
    batch_size: Positive
    server: Server


class OnlineRunConfig(RunConfig):
    """The configuration of an online run."""

    onmcpo: OnMCPO
    rollouts: Rollouts
    judge: Judge

    @property
    def num_samples(self) -> int:
        """Number of answers requested per prompt."""
        return len(self.rollouts.temperatures) * self.rollouts.samples


def check_rollouts(config: OnlineRunConfig) -> None:
    """Raise ConfigError if the rollouts do not fit the data or the objective."""
    data, rollouts = config.model.data, config.rollouts
    room = data.max_length - data.max_prompt_length
    if rollouts.max_tokens > room:
        raise ConfigError(
            "answers would be cut before training",
            where="rollouts.max_tokens",
            got=rollouts.max_tokens,
            expected=f"at most {room}, which is model.data.max_length minus model.data.max_prompt_length",
            fix="lower it or raise model.data.max_length",
        )
    if len(set(rollouts.temperatures)) < len(rollouts.temperatures):
        raise ConfigError(
            "duplicate temperature",
            where="rollouts.temperatures",
            got=rollouts.temperatures,
            fix="list each once and raise rollouts.samples",
        )
    needed = 1 + (1 if config.model.mcpo.replacement else config.model.mcpo.num_negatives)
    if config.num_samples < needed:
        raise ConfigError(
            "fewer answers than the objective needs",
            where="rollouts.samples",
            got=f"{len(rollouts.temperatures)} temperatures x {rollouts.samples}",
            expected=f"at least {needed} in total: the preferred one and model.mcpo.num_negatives",
            fix="raise rollouts.samples or lower model.mcpo.num_negatives",
        )


INSTRUCTION_TOKENS = 512
"""Upper bound on the judge's instructions, with the tokenizer of any supported family."""


def longest_question(config: OnlineRunConfig) -> int:
    """Return the number of tokens in the longest question to a judge, including its reply."""
    answers = 2 * config.rollouts.max_tokens
    return INSTRUCTION_TOKENS + config.model.data.max_prompt_length + answers + config.judge.max_tokens


def check_online(config: OnlineRunConfig) -> None:
    """Raise ConfigError if a setting works only in offline runs."""
    refused = (
        ("model.data.format", config.model.data.format == "tokens", "judges and chat servers need text"),
        (
            "exp_manager.resume_if_exists",
            not config.exp_manager.resume_if_exists,
            "each segment continues the previous one",
        ),
    )
    for key, is_wrong, reason in refused:
        if is_wrong:
            raise ConfigError(f"not supported in online runs: {reason}", where=key, fix=f"change {key}")


ONLINE_RULES = (check_rollouts, check_online)
