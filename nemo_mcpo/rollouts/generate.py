# SPDX-License-Identifier: Apache-2.0
"""The generate stage: draws the missing samples of every prompt, and redraws duplicates.

round 0: every slot  ─▶  duplicates within a prompt  ─▶  round 1: their slots again  ─▶ …  ─▶  complete.jsonl
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.answers import EMPTY, tokens_differ
from nemo_mcpo.rollouts.duplicates import Choice, attempt, choose, draws_of, slots_of
from nemo_mcpo.rollouts.engine import Engine
from nemo_mcpo.rollouts.samples import Generated, Prompt, Sample, SampleKey, SampleRequest
from nemo_mcpo.rollouts.store import SampleStore

MAX_FAILED = 0.05
"""Maximum share of a segment's samples without an answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a segment generates: ``samples`` answers per prompt at each temperature.

    A duplicate is drawn again up to ``redraws`` times.
    """

    segment: int
    temperatures: tuple[float, ...]
    samples: int
    redraws: int


def generate_samples(
    engine: Engine, store: SampleStore, prompts: Mapping[int, Prompt], plan: Plan, progress: bool = False
) -> Generated:
    """Fill the store with samples for ``prompts`` (by prompt id), and complete it."""
    slots = {prompt: slots_of(plan.segment, prompt, plan.temperatures, plan.samples) for prompt in prompts}
    wanted = [slot for own in slots.values() for slot in own]
    choices: dict[int, Choice] = {}
    redrawn, num_tokens, started = 0, 0, time.monotonic()
    for number in range(plan.redraws + 1):
        keys = [attempt(slot, number, plan.samples) for slot in wanted]
        redrawn += len(keys) if number else 0
        num_tokens += _generate_round(engine, store, prompts, keys, progress)
        for prompt in dict.fromkeys(slot.prompt_id for slot in wanted):
            choices[prompt] = _chosen(store, slots[prompt], number + 1, plan)
        repeated = [slot for choice in choices.values() for slot in choice.repeated]
        # Samples without an answer were already requested several times.
        wanted = [slot for slot in repeated if not _last(store, slot, number + 1, plan).problem]
        if not wanted:
            break
    problems = [problem for slot in repeated if (problem := _last(store, slot, plan.redraws + 1, plan).problem)]
    _check_problems(problems, sum(map(len, slots.values())), store)
    kept = [key for choice in choices.values() for key in choice.kept]
    # Drop texts and tokens to save memory: a segment has hundreds of millions of tokens.
    samples = [replace(one, text="", tokens=one.tokens and one.tokens[:1]) for one in map(store.__getitem__, kept)]
    store.finish(kept)
    return Generated(
        prompts=len(prompts),
        samples=len(kept),
        redrawn=redrawn,
        repeated=len(repeated) - len(problems),
        failed=len(problems),
        unfinished=sum(not sample.finished for sample in samples),
        mean_tokens=sum(sample.num_tokens for sample in samples) / max(1, len(samples)),
        reencoded=sum(sample.tokens is None for sample in samples),
        tokens_differ=tokens_differ(samples),
        tokens_per_second=num_tokens / (time.monotonic() - started),
    )


def _check_problems(problems: Sequence[str], num_slots: int, store: SampleStore) -> None:
    if len(problems) > MAX_FAILED * num_slots:
        raise RolloutError(
            "too many samples have no answer",
            where=str(store.directory),
            got=f"{len(problems)} of {num_slots}; the last problem: {problems[-1]}",
            expected=f"at most {MAX_FAILED:.0%}",
            fix="check the server's log; the same command requests them again",
        )


def _generate_round(
    engine: Engine,
    store: SampleStore,
    prompts: Mapping[int, Prompt],
    keys: Sequence[SampleKey],
    progress: bool,
) -> int:
    """Fill the store with these samples, and return the number of generated tokens."""
    requests = [SampleRequest(key, prompts[key.prompt_id]) for key in keys]
    done, num_tokens = sum(key in store for key in keys), 0
    with tqdm(total=len(keys), initial=done, desc="generate", unit="sample", disable=not progress) as bar:
        for generated in engine.generate(requests, store):
            samples = [
                sample if sample.text else replace(sample, problem=sample.problem or EMPTY) for sample in generated
            ]
            store.append(samples)
            num_tokens += sum(sample.num_tokens for sample in samples)
            bar.update(len(samples))
    return num_tokens


def _chosen(store: SampleStore, slots: Sequence[SampleKey], attempts: int, plan: Plan) -> Choice:
    """Apply ``duplicates.choose`` to the samples in the store."""
    draws = [store[key] for slot in slots for key in draws_of(slot, store, attempts, plan.samples)]
    texts = {sample.key: sample.text for sample in draws if not sample.problem}
    return choose(slots, texts, attempts, plan.samples)


def _last(store: SampleStore, slot: SampleKey, attempts: int, plan: Plan) -> Sample:
    return store[draws_of(slot, store, attempts, plan.samples)[-1]]
