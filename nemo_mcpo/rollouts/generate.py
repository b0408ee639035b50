# SPDX-License-Identifier: Apache-2.0
"""The stage that generates: every prompt's samples, those that are missing, equal ones drawn again.

round 0: every slot  ─▶  equal answers of a prompt  ─▶  round 1: their slots again  ─▶ …  ─▶  complete.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nemo_mcpo.rollouts.duplicates import Choice, attempt, choose, slots_of
from nemo_mcpo.rollouts.samples import Engine, SampleKey, SampleRequest
from nemo_mcpo.rollouts.store import SampleStore


@dataclass(frozen=True, slots=True)
class Plan:
    """What a segment generates.

    Attributes:
        segment: its number.
        temperatures: each with ``samples`` answers a prompt.
        redraws: how often a sample that repeats another is drawn again.
    """

    segment: int
    temperatures: tuple[float, ...]
    samples: int
    redraws: int


@dataclass(frozen=True, slots=True)
class Generated:
    """What a segment generated.

    Attributes:
        path: the complete samples, only those that were kept.
        samples: kept.
        redrawn: draws beyond the first of a slot.
        repeated: slots whose every draw repeated another: the prompt has fewer candidates.
        unfinished: kept samples that the limit of tokens cut.
        mean_tokens: of a kept sample.
    """

    path: Path
    samples: int
    redrawn: int
    repeated: int
    unfinished: int
    mean_tokens: float


def generate_samples(
    engine: Engine, store: SampleStore, prompts: Mapping[int, Sequence[int]], plan: Plan, progress: bool = False
) -> Generated:
    """Fill the store with the samples of ``prompts`` (prompt id -> tokens), and complete it."""
    slots = {prompt: slots_of(plan.segment, prompt, plan.temperatures, plan.samples) for prompt in prompts}
    wanted = [slot for own in slots.values() for slot in own]
    redrawn = 0
    for number in range(plan.redraws + 1):
        keys = [attempt(slot, number, plan.samples) for slot in wanted]
        redrawn += len(keys) if number else 0
        _generate_round(engine, store, prompts, keys, progress)
        choices = [_chosen(store, own, number + 1, plan) for own in slots.values()]
        wanted = [slot for choice in choices for slot in choice.repeated]
        if not wanted:
            break
    kept = [key for choice in choices for key in choice.kept]
    samples = [store[key] for key in kept]
    return Generated(
        path=store.finish(kept),
        samples=len(kept),
        redrawn=redrawn,
        repeated=len(wanted),
        unfinished=sum(not sample.finished for sample in samples),
        mean_tokens=sum(sample.num_tokens for sample in samples) / max(1, len(samples)),
    )


def _generate_round(
    engine: Engine,
    store: SampleStore,
    prompts: Mapping[int, Sequence[int]],
    keys: Sequence[SampleKey],
    progress: bool,
) -> None:
    requests = [SampleRequest(key, tuple(prompts[key.prompt_id])) for key in keys]
    done = sum(key in store for key in keys)
    with tqdm(total=len(keys), initial=done, desc="generate", unit="sample", disable=not progress) as bar:
        for samples in engine.generate(requests, store):
            store.append(samples)
            bar.update(len(samples))


def _chosen(store: SampleStore, slots: Sequence[SampleKey], attempts: int, plan: Plan) -> Choice:
    """``duplicates.choose`` on what the store has."""
    draws = [attempt(slot, number, plan.samples) for slot in slots for number in range(attempts)]
    texts = {key: store[key].text for key in draws if key in store}
    return choose(slots, texts, attempts, plan.samples)
