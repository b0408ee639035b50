# SPDX-License-Identifier: Apache-2.0
"""The judge stage: from a segment's samples to its training data, best answer first.

A prompt without a worse answer stays in its batch with its best answer twice: equal answers have equal rewards, so it
adds nothing to the gradient.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

from nemo_mcpo.data.tokenization import ChatTokenizer, encode_answers
from nemo_mcpo.judging.judgement import Judge, Judgement, Question
from nemo_mcpo.judging.tally import Ranked, tally
from nemo_mcpo.rollouts.samples import Prompt, Sample
from nemo_mcpo.storage.atomic import write_whole


def rank_answers(
    judge: Judge, prompts: Sequence[Prompt], answers: Sequence[Sequence[Sample]], progress: bool
) -> list[Judgement | None]:
    """Judge every prompt with at least two answers; None for the others."""
    questions = [
        Question(number, prompt.conversation, tuple(sample.text for sample in own))
        for number, (prompt, own) in enumerate(zip(prompts, answers, strict=True))
        if len(own) > 1
    ]
    found: list[Judgement | None] = [None] * len(prompts)
    with tqdm(total=len(questions), desc="judge", unit="prompt", disable=not progress) as bar:
        for number, judgement in judge.judge(questions):
            found[number] = judgement
            bar.update()
    return found


def write_ranked(
    path: Path,
    chat: ChatTokenizer,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Sample]],
    judgements: Sequence[Judgement | None],
    *,
    gives_scores: bool,
) -> Ranked:
    """Write the training data atomically, in the format ``tokens``.

    Args:
        gives_scores: whether the judge does; then every answer in the data has a score.

    Raises:
        RolloutError: the judge is unreliable, see ``tally``.
        StorageError: the file could not be written.
    """
    known = [judgement for judgement in judgements if judgement is not None]
    total = tally(known)
    records = (
        {"prompt_ids": list(prompt.tokens), "responses": list(_responses(chat, own, judgement, gives_scores))}
        for prompt, own, judgement in zip(prompts, answers, judgements, strict=True)
    )
    write_whole(path, (f"{json.dumps(record)}\n".encode() for record in records))
    rates = [judgement.win_rate for judgement in known if not math.isnan(judgement.win_rate)]
    return Ranked(
        prompts=len(prompts),
        without_choice=len(prompts) - sum(len(judgement.order) > 1 for judgement in known),
        win_rate=fmean(rates) if rates else math.nan,
        **asdict(total),
    )


def _responses(
    chat: ChatTokenizer, answers: Sequence[Sample], judgement: Judgement | None, gives_scores: bool
) -> Iterator[dict[str, object]]:
    """Answers as token ids, best first; only answers that the policy ended itself have an end-of-turn token.

    An answer that is written twice gets the same score twice.
    """
    order = judgement.order if judgement is not None else range(min(1, len(answers)))
    encoded = [_tokens(chat, answers[number]) for number in order] or [[chat.end_of_turn]]
    scores = None if judgement is None or judgement.scores is None else [judgement.scores[n] for n in order]
    if len(encoded) == 1:
        encoded, scores = encoded * 2, [scores[0] if scores else 0.0] * 2 if gives_scores else None
    for rank, ids in enumerate(encoded, start=1):
        response: dict[str, object] = {"ids": ids, "rank": rank}
        yield response if scores is None else response | {"score": scores[rank - 1]}


def _tokens(chat: ChatTokenizer, sample: Sample) -> list[int]:
    """Exactly the tokens that were drawn, or the text encoded again if they are unknown."""
    own = encode_answers(chat, [sample.text])[0][:-1] if sample.tokens is None else list(sample.tokens)
    return [*own, chat.end_of_turn] if sample.finished or not own else own
