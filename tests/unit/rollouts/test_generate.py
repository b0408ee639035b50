# SPDX-License-Identifier: Apache-2.0
"""The generate stage: every slot once, duplicates again up to the limit; interruptions change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts import generate as stage
from nemo_mcpo.rollouts.generate import Plan, generate_samples
from nemo_mcpo.rollouts.samples import Prompt
from nemo_mcpo.rollouts.store import COMPLETE, SampleStore, read_complete
from nemo_mcpo.storage import append_log as module
from tests.unit.rollouts.samples import Scripted

PLAN = Plan(segment=1, temperatures=(0.6, 1.0), samples=2, redraws=2)
PROMPTS = {11: Prompt((1, 2, 3)), 12: Prompt((4,)), 13: Prompt((5, 6))}


@pytest.fixture(autouse=True)
def no_locks(monkeypatch):
    monkeypatch.setattr(module, "lock_for_this_process", lambda path, patience: None)


def varied(key) -> str:
    """Prompt 11 never repeats an answer; 12 repeats until sample 2; 13 always gives the same answer."""
    texts = {12: f"{key.temperature} {key.sample // 2}", 13: "same"}
    return texts.get(key.prompt_id, f"{key.temperature} {key.sample}")


def test_all_slots_and_their_duplicates(tmp_path):
    engine = Scripted(varied)
    done = generate_samples(engine, SampleStore(tmp_path, {}), PROMPTS, PLAN)
    kept = list(read_complete(tmp_path))
    assert [sample.key.prompt_id for sample in kept] == [11] * 4 + [12] * 4 + [13]
    assert len({(sample.key.prompt_id, sample.text) for sample in kept}) == len(kept) == done.samples
    # 12: one slot of each temperature again, once. 13: three slots twice.
    assert (done.redrawn, done.repeated) == (2 + 6, 3)
    assert len(engine.generated) == len(set(engine.generated)) == 12 + done.redrawn
    assert done.mean_tokens == sum(len(sample.text) for sample in kept) / len(kept)
    assert done.unfinished == 0
    assert (done.reencoded, done.tokens_differ) == (done.samples, 0)


def test_texts_with_other_tokens_are_counted(tmp_path):
    """Prompt 11 has token ids; for prompt 12, texts at temperature 0.6 differ in length from the server's count."""

    class Counted(Scripted):
        def generate(self, requests, done):
            for samples in super().generate(requests, done):
                yield [
                    replace(one, tokens=(7,) * one.num_tokens)
                    if one.key.prompt_id == 11
                    else replace(one, counted=one.num_tokens + 1 + (one.key.temperature == 0.6))
                    for one in samples
                ]

    done = generate_samples(Counted(varied), SampleStore(tmp_path, {}), PROMPTS, PLAN)
    assert (done.samples, done.reencoded, done.tokens_differ) == (9, 5, 3)


@pytest.mark.parametrize("stop", range(0, 20, 3))
def test_an_interruption_changes_nothing(tmp_path, stop):
    whole = generate_samples(Scripted(varied), SampleStore(tmp_path / "whole", {}), PROMPTS, PLAN)
    generated = []

    def interrupted(key) -> str:
        if len(generated) == stop:
            raise KeyboardInterrupt
        generated.append(key)
        return varied(key)

    with pytest.raises(KeyboardInterrupt):
        generate_samples(Scripted(interrupted), SampleStore(tmp_path / "again", {}), PROMPTS, PLAN)
    store = SampleStore(tmp_path / "again", {})
    before = len(store)
    second = Scripted(varied)
    again = generate_samples(second, store, PROMPTS, PLAN)
    assert (tmp_path / "again" / COMPLETE).read_bytes() == (tmp_path / "whole" / COMPLETE).read_bytes()
    assert before + len(second.generated) == 20  # nothing in the store was requested again
    assert (again.samples, again.repeated) == (whole.samples, whole.repeated)


def test_a_finished_store_asks_for_nothing(tmp_path):
    generate_samples(Scripted(varied), SampleStore(tmp_path, {}), PROMPTS, PLAN)
    engine = Scripted(varied)
    generate_samples(engine, SampleStore(tmp_path, {}), PROMPTS, PLAN)
    assert engine.generated == []


class Failing(Scripted):
    """Answers to odd prompts fail, and one new answer makes an earlier choice a duplicate."""

    def generate(self, requests, done):
        for samples in super().generate(requests, done):
            yield [replace(s, text="", problem="refused") if s.key.prompt_id % 2 else s for s in samples]


def test_samples_without_an_answer_are_drawn_again_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "MAX_FAILED", 1.0)
    engine = Failing(varied)
    done = generate_samples(engine, SampleStore(tmp_path, {}), PROMPTS, PLAN)
    assert {sample.key.prompt_id for sample in read_complete(tmp_path)} == {12}
    assert (done.failed, done.repeated) == (8, 0)
    assert done.redrawn == 2  # what fails is not drawn again


def test_too_many_samples_without_an_answer_end_the_stage(tmp_path):
    with pytest.raises(RolloutError, match="samples have no answer") as caught:
        generate_samples(Failing(varied), SampleStore(tmp_path, {}), PROMPTS, PLAN)
    assert caught.value.got == "8 of 12; the last problem: refused"
    assert not (tmp_path / "complete.jsonl").exists()


def test_the_next_process_requests_failed_samples_again(tmp_path):
    with pytest.raises(RolloutError):
        generate_samples(Failing(varied), SampleStore(tmp_path, {}), PROMPTS, PLAN)
    engine = Scripted(varied)
    done = generate_samples(engine, SampleStore(tmp_path, {}), PROMPTS, PLAN)
    assert done.failed == 0 and {key.prompt_id for key in engine.generated} == {11, 13}
    generate_samples(Scripted(varied), SampleStore(tmp_path / "whole", {}), PROMPTS, PLAN)
    assert (tmp_path / COMPLETE).read_text() == (tmp_path / "whole" / COMPLETE).read_text()


def test_an_empty_answer_does_not_count(tmp_path):
    prompts = {12: PROMPTS[12]} | {number: Prompt((number,)) for number in range(100, 150)}
    engine = Scripted(lambda key: "" if key.prompt_id == 12 and key.temperature == 0.6 else varied(key))
    done = generate_samples(engine, SampleStore(tmp_path, {}), prompts, PLAN)
    assert done.failed == 2


def test_a_late_duplicate_of_a_slot_that_was_never_drawn_again(tmp_path):
    """Slot 0.6/1 repeats 0.6/0, and its redraw repeats 1.0/0, which was not drawn again."""
    texts = {(0.6, 0): "a", (0.6, 1): "a", (0.6, 3): "a", (0.6, 5): "b", (1.0, 0): "b", (1.0, 1): "c"}
    engine = Scripted(lambda key: texts[key.temperature, key.sample])
    done = generate_samples(engine, SampleStore(tmp_path, {}), {11: Prompt((1,))}, PLAN)
    assert (done.samples, done.repeated, done.failed) == (3, 1, 0)
