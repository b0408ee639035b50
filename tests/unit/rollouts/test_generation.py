# SPDX-License-Identifier: Apache-2.0
"""Generation depends on the arguments alone; tests/unit/evaluation compares the answers with transformers'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nemo_mcpo.errors import CheckpointError, DataError
from nemo_mcpo.rollouts.generation import Answer, Policy, _answer, batches_by_length, generate_batch, load_policy

PROMPTS = [[1, 20, 30, 40, 50]] * 4


@pytest.fixture(scope="module")
def directory(inputs) -> Path:
    return inputs / "model"


@pytest.fixture(scope="module")
def policy(directory) -> Policy:
    return load_policy(directory)


def copy(directory: Path, target: Path, **files: object) -> Path:
    """A copy of the directory with some keys of its JSON files changed."""
    shutil.copytree(directory, target)
    for name, changes in files.items():
        file = target / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return target


def generated(policy: Policy, temperature: float) -> list[Answer]:
    return generate_batch(policy, PROMPTS, temperature=temperature, max_tokens=24, top_p=1.0, seed=3)


def test_batches_hold_every_row_once_and_similar_lengths():
    assert list(batches_by_length([5, 1, 3, 1, 9], 2)) == [[1, 3], [2, 0], [4]]


OTHERS = {
    **{"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_p": 0.9, "typical_p": 0.2, "top_k": 1, "top_p": 0.1},
    **{"temperature": 0.1, "epsilon_cutoff": 0.5, "max_length": 9, "min_new_tokens": 30, "num_beams": 2},
    **{"suppress_tokens": list(range(20, 300)), "bad_words_ids": [[number] for number in range(20, 300)]},
    **{"begin_suppress_tokens": list(range(20, 300)), "forced_bos_token_id": 4, "do_sample": False},
    **{"num_return_sequences": 2, "stop_strings": ["a"], "return_dict_in_generate": True},
}


def test_only_the_end_tokens_of_generation_config_are_used(directory, policy, tmp_path):
    """Each key alone in generation_config.json, and all together in config.json, where old models have them."""
    own = json.loads((directory / "generation_config.json").read_text())
    ids = {key: value for key, value in own.items() if key.endswith("token_id")}
    other = copy(directory, tmp_path / "other", config={key: OTHERS[key] for key in ("min_p", "repetition_penalty")})
    wanted = {temperature: generated(policy, temperature) for temperature in (0.0, 1.0)}
    for key, value in OTHERS.items():
        (other / "generation_config.json").write_text(json.dumps({"do_sample": True} | ids | {key: value}))
        found = load_policy(other)
        for temperature, answers in wanted.items():
            assert generated(found, temperature) == answers, (key, temperature)
    (other / "generation_config.json").unlink()
    assert generated(load_policy(other), 1.0) == wanted[1.0]


def test_tokens_are_those_that_were_drawn(policy):
    tokenizer = policy.chat.tokenizer
    for answer in generated(policy, 1.0):
        assert len(answer.tokens) <= 24
        assert answer.text == tokenizer.decode(answer.tokens, skip_special_tokens=True).strip()


def test_only_the_end_of_a_turn_finishes_an_answer(directory, policy, tmp_path):
    end, other = policy.chat.end_of_turn, 77
    (two_ends := copy(directory, tmp_path / "model", generation_config={"eos_token_id": [other, end]}))
    policy = load_policy(two_ends)
    assert set(policy.ends) == {other, end}
    for drawn, length, finished in (
        ([20, 21, end, end], 2, True),
        ([20, 21, other, end], 2, False),
        ([20, 21, 22, 23], 4, False),
        ([end, 20], 0, True),
    ):
        answer = _answer(policy, drawn)
        assert (answer.tokens, answer.finished) == (tuple(drawn[:length]), finished)


def test_every_declared_end_stops_an_answer(directory, policy, tmp_path, monkeypatch):
    """The fourth greedy token is declared an end token: the answer stops there, but its turn has not ended."""
    first = generated(policy, 0.0)[0].tokens
    stop = first[3]
    ended = load_policy(copy(directory, tmp_path / "model", config={"eos_token_id": [stop]}))
    generate, lengths = ended.model.generate, []

    def counted(ids, **arguments):
        rows = generate(ids, **arguments)
        lengths.append(rows.shape[1] - ids.shape[1])
        return rows

    monkeypatch.setattr(ended.model, "generate", counted)
    answer = generated(ended, 0.0)[0]
    assert lengths == [first.index(stop) + 1], "nothing is computed behind the end"
    assert answer.tokens == first[: first.index(stop)] and not answer.finished


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("config.json", None, CheckpointError),
        ("generation_config.json", "[]", CheckpointError),
        ("model.safetensors", None, CheckpointError),
        ("tokenizer.json", "[]", DataError),
    ],
)
def test_a_damaged_directory_is_refused_in_one_line(directory, tmp_path, file, text, error):
    damaged = copy(directory, tmp_path / "model") / file
    damaged.unlink() if text is None else damaged.write_text(text)
    with pytest.raises(error, match=r"Fix: ") as caught:
        load_policy(damaged.parent)
    assert "\n" not in str(caught.value)
