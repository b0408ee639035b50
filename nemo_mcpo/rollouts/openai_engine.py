# SPDX-License-Identifier: Apache-2.0
"""Engine ``openai``: one request a sample to servers with OpenAI's interface, running ones or our own."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nemo_mcpo.config import Server
from nemo_mcpo.data.tokenization import ChatTokenizer, encode_answers, load_chat_tokenizer
from nemo_mcpo.errors import RolloutError
from nemo_mcpo.platform.workers import in_threads
from nemo_mcpo.rollouts.client import RefusedError
from nemo_mcpo.rollouts.generate import EMPTY
from nemo_mcpo.rollouts.probe import Ask, check_models, check_sampling, find_way
from nemo_mcpo.rollouts.samples import Prompt, Sample, SampleKey, SampleRequest, Sampling
from nemo_mcpo.rollouts.serving import Serving, open_serving
from nemo_mcpo.sampling.seeding import seed_from

ATTEMPTS = 3
"""How often a sample is asked for until its reply makes sense."""


class OpenAIEngine:
    """See ``samples.Engine``; ``logs`` is the directory of the logs of servers that it starts."""

    def __init__(self, sampling: Sampling, settings: Server, logs: Path) -> None:
        self.sampling, self.settings, self.logs = sampling, settings, logs
        self._serving: Serving | None = None
        self._chat: ChatTokenizer | None = None
        self._ask: Ask | None = None

    def load(self, directory: str) -> None:
        """See ``samples.Engine``."""
        self._chat = load_chat_tokenizer(directory)
        self._serving = open_serving(self.settings, self.settings.model or directory, self.logs)
        check_models(self._serving)

    def generate(self, requests: Sequence[SampleRequest], done: Container[SampleKey]) -> Iterator[list[Sample]]:
        """See ``samples.Engine``."""
        serving = self._serving
        if serving is None:
            raise ValueError("load a policy before generating")
        missing = [request for request in requests if request.key not in done]
        if missing and self._ask is None:
            shortest = min((request.prompt for request in missing), key=lambda prompt: len(prompt.tokens))
            # In a thread, so that a server which dies meanwhile is started again.
            ((self._ask,),) = in_threads(partial(self._examine, serving), [shortest], 1, serving.restart_dead)
        for samples in in_threads(self._sample, missing, serving.num_requests(), serving.restart_dead):
            yield [replace(sample, num_tokens=self._num_tokens(sample.text)) for sample in samples]

    def _examine(self, serving: Serving, prompt: Prompt) -> Ask:
        """How to ask servers that can be trusted."""
        ask = find_way(serving, prompt)
        try:
            check_sampling(serving, ask, prompt)
        except RefusedError as error:
            raise RolloutError(
                "the server refuses to sample", where="rollouts.server", got=error, cure="look at the server's log"
            ) from error
        return ask

    def _sample(self, request: SampleRequest) -> Sample:
        """The policy's answer, its tokens not counted yet, or why there is none; in one of many threads."""
        serving, ask, problem = self._serving, self._ask, ""
        assert serving is not None and ask is not None
        for attempt in range(ATTEMPTS):
            call = partial(
                ask,
                model=serving.model,
                prompt=request.prompt,
                temperature=request.key.temperature,
                top_p=self.sampling.top_p,
                max_tokens=self.sampling.max_tokens,
                seed=seed_from(repr((self.sampling.seed, tuple(request.key), attempt))) % 2**31,
            )
            try:
                reply = serving.pool.ask(call)
            except RefusedError as error:
                problem = str(error)
                continue
            text = reply.text.strip()
            if text:
                return Sample(request.key, text, 0, reply.finished)
            problem = EMPTY
        return Sample(request.key, "", 0, False, problem)

    def _num_tokens(self, text: str) -> int:
        """By the policy's tokenizer, which threads cannot share; servers count in different ways, or not at all."""
        return len(encode_answers(self._chat, [text])[0]) - 1 if text else 0  # type: ignore[arg-type]

    def close(self) -> None:
        """See ``samples.Engine``."""
        if self._serving is not None:
            self._serving.close()
        self._serving = self._ask = None
