# SPDX-License-Identifier: Apache-2.0
"""The records are frozen and documented."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nemo_mcpo import records

RECORDS = [value for value in vars(records).values() if dataclasses.is_dataclass(value)]


def test_every_record_is_here():
    names = {"Message", "Response", "PreferenceRecord", "PromptTree", "TreeSpan", "TreeBatch", "PreferenceBatch"}
    assert names | {"ObjectiveInputs", "ObjectiveOutputs", "Trained"} == {record.__name__ for record in RECORDS}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_frozen_and_documented(record):
    one = record(*[None for _ in dataclasses.fields(record)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, dataclasses.fields(record)[0].name, 1)
    # A dataclass without a docstring gets "Name(field: type, …)".
    assert not record.__doc__.startswith(f"{record.__name__}(")


def test_tokens_of_a_tree_count_the_prompt_once():
    tree = records.PromptTree(0, 0, np.arange(5), (np.arange(3), np.arange(2), np.arange(4)))
    assert tree.num_tokens == 5 + 3 + 2 + 4
