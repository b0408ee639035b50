# SPDX-License-Identifier: Apache-2.0
"""Judge ``openai``: a language model compares pairs of answers, L − 1 for each prompt, many prompts at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from nemo_mcpo.config import Judge as JudgeSettings
from nemo_mcpo.errors import RolloutError
from nemo_mcpo.judging.cache import VerdictCache
from nemo_mcpo.judging.comparison import INSTRUCTIONS, comparison_messages, read_verdict
from nemo_mcpo.judging.judgement import Judgement, Question
from nemo_mcpo.judging.ranking import Verdict, best_of, both_orders, exchanged
from nemo_mcpo.models.huggingface.hashing import hash_weights
from nemo_mcpo.platform.workers import in_threads
from nemo_mcpo.rollouts.client import RefusedError, chat
from nemo_mcpo.rollouts.probe import check_models
from nemo_mcpo.rollouts.serving import open_serving
from nemo_mcpo.sampling.seeding import seed_from

MAX_FAILURES_IN_A_ROW = 25
_NONE: Verdict = "unparsable"


class LanguageModelJudge:
    """See ``judgement.Judge``.

    The place of an answer is drawn, by the words of the two, so that a judge which prefers a place prefers no answer.

    Args:
        settings: the section ``judge``.
        cache: of verdicts.
        logs: directory of the logs of servers that it starts.
    """

    def __init__(self, settings: JudgeSettings, cache: VerdictCache, logs: Path) -> None:
        model = settings.server.model or ""
        self.settings, self.cache = settings, cache
        self.identity = [hash_weights(Path(model)) if Path(model).is_dir() else model, INSTRUCTIONS]
        self.serving = open_serving(settings.server, model, logs)
        try:
            check_models(self.serving)
        except BaseException:
            self.serving.close()
            raise
        self._failures, self._last_reply = 0, ""

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement]]:
        """See ``judgement.Judge``."""
        for finished in in_threads(self._judge, questions, self.serving.num_requests(), self.serving.restart_dead):
            for number, judgement in finished:
                self._failures = 0 if judgement.comparisons else self._failures + 1
                if self._failures >= MAX_FAILURES_IN_A_ROW:
                    raise RolloutError(
                        f"no verdict on {self._failures} prompts in a row",
                        where="judge.server",
                        got=repr(self._last_reply[:100]),
                        expected="a reply that ends with <verdict>A</verdict>, B or tie",
                        cure="look at the server's log, raise judge.max_tokens, or take a larger judge",
                    )
                yield number, judgement

    def _judge(self, question: Question) -> tuple[int, Judgement]:
        shown: list[Verdict] = []  # as the judge saw the places
        answers = question.answers

        def compare(best: int, challenger: int) -> Verdict:
            pair = (answers[best], answers[challenger])
            swapped = seed_from(repr(pair)) % 2 == 1
            shown.append(self._verdict(question, *(pair[::-1] if swapped else pair)))
            verdict = exchanged(shown[-1]) if swapped else shown[-1]
            if not self.settings.both_orders:
                return verdict
            shown.append(self._verdict(question, *(pair if swapped else pair[::-1])))
            # Of two answers shown as (b, a), ``both_orders`` wants the verdict in these places.
            return both_orders(verdict, exchanged(shown[-1]) if swapped else shown[-1])

        ranking = best_of(len(answers), compare)
        return question.number, Judgement(
            order=(ranking.best, *ranking.beaten),
            win_rate=ranking.win_rate,
            ties=ranking.ties,
            failures=ranking.failures,
            comparisons=sum(verdict != "unparsable" for verdict in shown),
            first_place=shown.count("first"),
            second_place=shown.count("second"),
        )

    def _verdict(self, question: Question, first: str, second: str) -> Verdict:
        """The stored verdict, or the judge's; asked again, warmer, until it can be read."""
        asked = (self.identity, [asdict(turn) for turn in question.conversation], first, second)
        known = self.cache.get(*asked)
        if known is not None:
            return known  # type: ignore[return-value]
        messages = comparison_messages(question.conversation, first, second)
        for attempt in range(self.settings.attempts):
            request = partial(
                chat,
                model=self.serving.model,
                messages=messages,
                temperature=0.7 if attempt else 0.0,
                top_p=1.0,
                max_tokens=self.settings.max_tokens,
                seed=attempt,
            )
            try:
                reply = self.serving.pool.ask(request).text
            except RefusedError as error:
                self._last_reply = str(error)
                continue
            self._last_reply = reply
            verdict = read_verdict(reply)
            if verdict != _NONE:
                self.cache.put(verdict, *asked, reply=reply)
                return verdict
        return _NONE

    def close(self) -> None:
        """See ``judgement.Judge``."""
        self.serving.close()
