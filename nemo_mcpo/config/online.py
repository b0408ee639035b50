# SPDX-License-Identifier: Apache-2.0
"""The keys that an online run (OnMC-PO) has beside those of every run; their defaults are in ``gpt_onmcpo.yaml``."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from nemo_mcpo.config.schema import Fraction, NonNegative, Positive, RunConfig, Section
from nemo_mcpo.errors import ConfigError

Temperature = Annotated[float, Field(gt=0.0, le=2.0)]
Seconds = Annotated[float, Field(gt=0.0)]


class OnMCPO(Section):
    """``onmcpo``: the loop."""

    segments: Positive
    restarts: NonNegative


class Server(Section):
    """``rollouts.server`` and ``judge.server``: programs with OpenAI's interface, running or started by us."""

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
    """The key of a server from the environment variable that the configuration names."""
    variable = server.api_key_env
    if variable is None:
        return "none"  # local servers want none, the client wants one
    if variable not in os.environ:
        fix = f"export {variable}"
        raise ConfigError("the variable is not set", where=f"{section}.api_key_env", got=variable, fix=fix)
    return os.environ[variable]


class Rollouts(Section):
    """``rollouts``: how the policy's answers are drawn."""

    engine: str
    temperatures: Annotated[list[Temperature], Field(min_length=1)]
    samples: Positive
    redraws: NonNegative
    top_p: Fraction
    max_tokens: Positive
    batch_size: Positive
    server: Server


class Judge(Section):
    """``judge``: what finds the best answer."""

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
    """A whole online run."""

    onmcpo: OnMCPO
    rollouts: Rollouts
    judge: Judge

    @property
    def num_samples(self) -> int:
        """Answers asked for a prompt."""
        return len(self.rollouts.temperatures) * self.rollouts.samples


def check_rollouts(config: OnlineRunConfig) -> None:
    """Raise ConfigError where the rollouts do not fit the data or the objective."""
    data, rollouts = config.model.data, config.rollouts
    room = data.max_length - data.max_prompt_length
    if rollouts.max_tokens > room:
        raise ConfigError(
            "answers would be cut before they are trained on",
            where="rollouts.max_tokens",
            got=rollouts.max_tokens,
            expected=f"at most {room}, model.data.max_length less model.data.max_prompt_length",
            fix="lower it or raise model.data.max_length",
        )
    if len(set(rollouts.temperatures)) < len(rollouts.temperatures):
        raise ConfigError(
            "the same temperature twice",
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
            expected=f"at least {needed} in all: the preferred one and model.mcpo.num_negatives",
            fix="raise rollouts.samples or lower model.mcpo.num_negatives",
        )


INSTRUCTION_TOKENS = 512
"""More than the judge's instructions have in any tokenizer of the supported families."""


def longest_question(config: OnlineRunConfig) -> int:
    """Tokens of the longest question to a judge and its reply."""
    answers = 2 * config.rollouts.max_tokens
    return INSTRUCTION_TOKENS + config.model.data.max_prompt_length + answers + config.judge.max_tokens


def check_online(config: OnlineRunConfig) -> None:
    """Raise ConfigError where an online run cannot use what an offline one can."""
    refused = (
        ("model.data.format", config.model.data.format == "tokens", "judges and chat servers read words"),
        (
            "exp_manager.resume_if_exists",
            not config.exp_manager.resume_if_exists,
            "a segment continues the one before",
        ),
    )
    for key, is_wrong, reason in refused:
        if is_wrong:
            raise ConfigError(f"not in an online run: {reason}", where=key, fix=f"change {key}")


ONLINE_RULES = (check_rollouts, check_online)
