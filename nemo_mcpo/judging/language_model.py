# SPDX-License-Identifier: Apache-2.0
"""Judge ``openai``: a language model compares pairs of answers, L − 1 per prompt, many prompts concurrently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nemo_mcpo.config import Judge as JudgeSettings, OnlineRunConfig
from nemo_mcpo.config.online import INSTRUCTION_TOKENS, longest_question
from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.judging.cache import VerdictCache
from nemo_mcpo.judging.comparison import comparison_messages, read_verdict
from nemo_mcpo.judging.excerpt import Shown, fit
from nemo_mcpo.judging.fence import inert
from nemo_mcpo.judging.identity import identity_of, listed_model
from nemo_mcpo.judging.judgement import JudgeKind, Judgement, Question, require_key
from nemo_mcpo.judging.ranking import Verdict, best_of, both_orders, exchanged
from nemo_mcpo.judging.tokens import tokens_of
from nemo_mcpo.judging.turns import turn_text
from nemo_mcpo.platform.workers import in_threads
from nemo_mcpo.rollouts.client import RefusedError, Reply
from nemo_mcpo.rollouts.completions import converse
from nemo_mcpo.rollouts.fit import Machine
from nemo_mcpo.rollouts.launchers import launcher_of
from nemo_mcpo.rollouts.preflight import check_own_servers
from nemo_mcpo.rollouts.probe import check_models
from nemo_mcpo.rollouts.running_servers import check_urls
from nemo_mcpo.rollouts.served_model import read_served_model
from nemo_mcpo.rollouts.serving import open_serving
from nemo_mcpo.sampling.seeding import seed_from

MAX_FAILURES_IN_A_ROW = 25
MIN_ROOM = 256
"""Minimum number of tokens for a conversation and two answers."""
FIRST_TEMPERATURE, NEXT_TEMPERATURE, TOP_P = 0.0, 0.7, 1.0
READING = 1
"""Version of how replies are read. Raise it when that changes, so that older verdicts are not used."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One comparison: the verdict on the answers in the order shown, and whether text or reply was cut."""

    verdict: Verdict
    cut: bool
    unfinished: bool = False


class LanguageModelJudge:
    """See ``judgement.Judge``.

    The order in which two answers are shown is a pseudo-random function of their texts, so that a judge that prefers
    one position does not favor either answer.

    Args:
        settings: the section ``judge``.
        shared: directory of verdicts for all runs, used if the judge's weights are known.
        own: directory of this run's verdicts, used if the judge is known by its name only.
        logs: directory for the logs of servers that it starts.
    """

    def __init__(self, settings: JudgeSettings, shared: Path, own: Path, logs: Path) -> None:
        model = settings.server.model or ""
        self.settings, self.tokens = settings, tokens_of(model)
        self.serving = open_serving(settings.server, model, logs)
        try:
            check_models(self.serving)
            listed = listed_model(self.serving)
            self.room = _room(settings, listed.window)
            identity = identity_of(settings, listed)
            self.cache = VerdictCache(shared if identity.is_known else own)
        except BaseException:
            self.serving.close()
            raise
        self._identity = [*identity.facts, READING, FIRST_TEMPERATURE, NEXT_TEMPERATURE, TOP_P]
        self._failures, self._last_reply = 0, ""

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement]]:
        for finished in in_threads(self._judge, questions, self.serving.num_requests(), self.serving.restart_dead):
            for number, judgement in finished:
                self._failures = 0 if judgement.comparisons else self._failures + 1
                if self._failures >= MAX_FAILURES_IN_A_ROW:
                    raise RolloutError(
                        f"no verdict on {self._failures} prompts in a row",
                        where="judge.server",
                        got=repr(self._last_reply[-200:]),
                        expected="a finished reply with <verdict>A</verdict>, B or tie as its last line",
                        fix="check the server's log, raise judge.max_tokens, or use a larger judge",
                    )
                yield number, judgement

    def _judge(self, question: Question) -> tuple[int, Judgement]:
        asked: list[_Outcome] = []  # with verdicts in the order shown to the judge
        answers = question.answers

        def compare(best: int, challenger: int) -> Verdict:
            pair = (answers[best], answers[challenger])
            swapped = seed_from(repr(pair)) % 2 == 1
            asked.append(self._compare(question, *(pair[::-1] if swapped else pair)))
            verdict = asked[-1].verdict
            if self.settings.both_orders:
                asked.append(self._compare(question, *(pair if swapped else pair[::-1])))
                verdict = both_orders(verdict, asked[-1].verdict)
            return exchanged(verdict) if swapped else verdict

        ranking = best_of(len(answers), compare)
        verdicts = [outcome.verdict for outcome in asked]
        return question.number, Judgement(
            order=(ranking.best, *ranking.beaten),
            win_rate=ranking.win_rate,
            ties=ranking.ties,
            failures=verdicts.count("unparsable"),
            unfinished=sum(outcome.unfinished for outcome in asked),
            cut=sum(outcome.cut for outcome in asked),
            comparisons=len(verdicts) - verdicts.count("unparsable"),
            first_place=verdicts.count("first"),
            second_place=verdicts.count("second"),
        )

    def _compare(self, question: Question, first: str, second: str) -> _Outcome:
        """The cached verdict, or the judge's; unreadable replies are requested again at a higher temperature.

        A comparison without a verdict is not cached, since the server may have been the cause.
        """
        room = self.room
        shown = self._shown(question, first, second, room)
        messages = comparison_messages(shown)
        key = (self._identity, messages)
        known = self.cache.get(*key)
        if known is not None:
            return _Outcome(*known)  # type: ignore[misc]
        unfinished = False
        for attempt in range(self.settings.attempts):
            try:
                reply = self._ask(messages, attempt, question.number)
            except RefusedError as error:
                self._last_reply, unfinished = str(error), False
                if not self.tokens.is_exact:  # the estimate may have been too low, so shorten the question
                    room = min(room, self.tokens.count(messages[0]["content"])) * 3 // 4
                    shown = self._shown(question, first, second, room)
                    messages = comparison_messages(shown)
                continue
            self._last_reply, unfinished = reply.text, not reply.finished
            verdict = read_verdict(reply.text) if reply.finished else "unparsable"
            if verdict != "unparsable":
                self.cache.put([verdict, shown.is_cut], *key, reply=reply.text)
                return _Outcome(verdict, shown.is_cut)
        return _Outcome("unparsable", shown.is_cut, unfinished)

    def _shown(self, question: Question, first: str, second: str, room: int) -> Shown:
        def clean(text: str) -> str:
            return inert(text, self.tokens.control_tokens)

        turns = [(turn.role, clean(turn_text(turn))) for turn in question.conversation]
        return fit(turns, (clean(first), clean(second)), room, self.tokens.count)

    def _ask(self, messages: list[dict[str, str]], attempt: int, prompt: int) -> Reply:
        request = partial(
            converse,
            whole=False,  # a server may move a judge's reasoning to another field: the verdict is enough
            model=self.serving.model,
            messages=messages,
            temperature=NEXT_TEMPERATURE if attempt else FIRST_TEMPERATURE,
            top_p=TOP_P,
            max_tokens=self.settings.max_tokens,
            seed=attempt,
            **(launcher_of(self.settings.server).warm if attempt else {}),
        )
        return self.serving.pool.ask(request, prompt)

    def close(self) -> None:
        self.serving.close()


def _room(settings: JudgeSettings, listed_window: int | None) -> int:
    """Number of tokens available for the material of a comparison."""
    window = min(settings.server.max_seq_len, listed_window or settings.server.max_seq_len)
    room = window - settings.max_tokens - INSTRUCTION_TOKENS
    if room < MIN_ROOM:
        raise RolloutError(
            "the judge's context window is too small for a comparison",
            where="judge.server",
            got=f"{window} tokens, {settings.max_tokens} of them for its reply",
            expected=f"at least {settings.max_tokens + INSTRUCTION_TOKENS + MIN_ROOM}",
            fix="lower judge.max_tokens, or serve the judge with a larger window",
        )
    return room


def _check(config: OnlineRunConfig) -> None:
    server = config.judge.server
    require_key(server.model, "judge.server.model", "DIR, or its name on running servers")
    needed = longest_question(config)
    if server.max_seq_len < needed:
        raise ConfigError(
            "a question to the judge may not fit",
            where="judge.server.max_seq_len",
            got=server.max_seq_len,
            expected=f"at least {needed}, for instructions, a prompt, two answers and the judge's reply",
            fix="raise it to the judge's window, or lower model.data.max_prompt_length or rollouts.max_tokens",
        )


def _preflight(config: OnlineRunConfig, machine: Machine) -> Sequence[str]:
    settings, section = config.judge.server, "judge.server"
    if settings.urls:
        return check_urls(settings, section, must_run=machine.is_here)
    model = read_served_model(settings.model or "", f"{section}.model", needs_template=True)
    question = longest_question(config) - config.judge.max_tokens
    return check_own_servers(settings, [model], question, section, machine)


OPENAI = JudgeKind(LanguageModelJudge, _check, _preflight, gives_scores=False)
