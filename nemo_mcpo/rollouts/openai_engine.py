# SPDX-License-Identifier: Apache-2.0
"""Engine ``openai``: one request per sample to servers with OpenAI's interface, already running or started here."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from nemo_mcpo.config import OnlineRunConfig, Server
from nemo_mcpo.data.tokenization import load_chat_tokenizer
from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.platform.workers import in_threads
from nemo_mcpo.rollouts.answers import sample_of, vocabulary_of
from nemo_mcpo.rollouts.client import RefusedError
from nemo_mcpo.rollouts.engine import EngineKind
from nemo_mcpo.rollouts.fit import Machine
from nemo_mcpo.rollouts.preflight import check_own_servers
from nemo_mcpo.rollouts.probe import Ask, check_models, find_way
from nemo_mcpo.rollouts.running_servers import check_urls
from nemo_mcpo.rollouts.samples import Prompt, Sample, SampleKey, SampleRequest, Sampling
from nemo_mcpo.rollouts.sampling_check import check_sampling
from nemo_mcpo.rollouts.served_model import BYTES, CONFIG, ServedModel, read_served_model, sizes_of
from nemo_mcpo.rollouts.serving import open_serving
from nemo_mcpo.sampling.seeding import seed_from

ATTEMPTS = 3
"""How many times a sample is requested before it counts as failed."""


class OpenAIEngine:
    """See ``engine.Engine``; servers that it starts log to the directory ``logs``."""

    def __init__(self, directory: str, sampling: Sampling, settings: Server, logs: Path) -> None:
        self.sampling, self.vocabulary = sampling, vocabulary_of(load_chat_tokenizer(directory))
        self.serving = open_serving(settings, settings.model or directory, logs)
        self._ask: Ask | None = None
        try:
            check_models(self.serving)
        except BaseException:
            self.serving.close()
            raise

    def generate(self, requests: Sequence[SampleRequest], done: Container[SampleKey]) -> Iterator[list[Sample]]:
        serving = self.serving
        missing = [request for request in requests if request.key not in done]
        if missing and self._ask is None:
            shortest = min((request.prompt for request in missing), key=lambda prompt: len(prompt.tokens))
            # In a thread, so that a server that dies meanwhile is restarted.
            ((self._ask,),) = in_threads(self._examine, [shortest], 1, serving.restart_dead)
        yield from in_threads(self._sample, missing, serving.num_requests(), serving.restart_dead)

    def _examine(self, prompt: Prompt) -> Ask:
        """Find out how to send requests, and check that the servers sample from the policy."""
        ask = find_way(self.serving, prompt)
        try:
            check_sampling(self.serving, ask, prompt, self.vocabulary.size)
        except RefusedError as error:
            raise RolloutError(
                "the server refuses to sample", where="rollouts.server", got=error, fix="check the server's log"
            ) from error
        return ask

    def _sample(self, request: SampleRequest) -> Sample:
        """Request one sample; runs in one of many threads. A failed sample has a ``problem``."""
        assert self._ask is not None
        key, prompt, max_tokens, problem = request.key, request.prompt, self.sampling.max_tokens, ""
        for attempt in range(ATTEMPTS):
            call = partial(
                self._ask,
                model=self.serving.model,
                prompt=prompt,
                temperature=key.temperature,
                top_p=self.sampling.top_p,
                max_tokens=max_tokens,
                seed=seed_from(repr((self.sampling.seed, tuple(key), attempt))) % 2**31,
            )
            try:
                reply = self.serving.pool.ask(call, key=key.prompt_id)
                sample = sample_of(self.vocabulary, key, prompt, reply, max_tokens)
            except RefusedError as error:
                problem = str(error)
                continue
            if not sample.problem:
                return sample
            problem = sample.problem
        return Sample(key, "", 0, False, problem)

    def close(self) -> None:
        self.serving.close()


def _check(config: OnlineRunConfig) -> None:
    """Raise ConfigError if servers that we start could not serve the policy, or its longest answers."""
    server = config.rollouts.server
    if server.urls:
        return
    needed = config.model.data.max_prompt_length + config.rollouts.max_tokens
    if server.max_seq_len < needed:
        raise ConfigError(
            "a prompt and its answer do not fit",
            where="rollouts.server.max_seq_len",
            got=server.max_seq_len,
            expected=f"at least {needed}: model.data.max_prompt_length and rollouts.max_tokens",
            fix="raise it, or lower one of the two",
        )
    if server.model is not None:
        raise ConfigError(
            "servers that the run starts always serve the segment's policy",
            where="rollouts.server.model",
            got=server.model,
            fix="leave it null, or set rollouts.server.urls to servers that know the policy by this name",
        )


def _preflight(config: OnlineRunConfig, machine: Machine, policies: Mapping[str, str] | None) -> Sequence[str]:
    settings, section = config.rollouts.server, "rollouts.server"
    if settings.urls:
        return check_urls(settings, section, must_run=False)
    longest = config.model.data.max_prompt_length
    return check_own_servers(settings, _policies(config, policies), longest, section, machine)


def _policies(config: OnlineRunConfig, policies: Mapping[str, str] | None) -> list[ServedModel]:
    """The models that the servers of ``rollouts`` will load."""
    if policies is not None:
        return [read_served_model(directory, name) for name, directory in policies.items()]
    start = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
    shape = start.architecture
    file = start.files / CONFIG
    return [sizes_of(json.loads(file.read_text()), shape.num_parameters * BYTES[shape.dtype], str(file))]


OPENAI = EngineKind(
    build=lambda directory, rollouts, sampling, logs: OpenAIEngine(directory, sampling, rollouts.server, logs),
    needs_text=True,
    check=_check,
    preflight=_preflight,
)
