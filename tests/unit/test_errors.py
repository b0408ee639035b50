# SPDX-License-Identifier: Apache-2.0
"""An error is one line: where, what, got, expected, fix."""

from __future__ import annotations

import pytest

from nemo_mcpo.errors import CheckpointError, ConfigError, DataError, NemoMcpoError, RolloutError, StorageError


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "broken"),
        ({"where": "a.b"}, "a.b: broken"),
        ({"got": 3}, "broken (got 3)"),
        ({"expected": "at least 2"}, "broken (expected at least 2)"),
        ({"got": 0, "expected": False}, "broken (got 0, expected False)"),
        ({"fix": "do this"}, "broken. Fix: do this."),
        ({"fix": "do this."}, "broken. Fix: do this."),
        ({"fix": "did you mean x?"}, "broken. Fix: did you mean x?"),
        (
            {"where": "a.b", "got": 1, "expected": 2, "fix": "set a.b=2"},
            "a.b: broken (got 1, expected 2). Fix: set a.b=2.",
        ),
    ],
)
def test_the_line(arguments, line):
    assert str(NemoMcpoError("broken", **arguments)) == line


def test_always_one_line():
    error = DataError("not\nJSON", where="f.jsonl:3", got="a\n\tb", fix="fix\nit")
    assert str(error) == "f.jsonl:3: not JSON (got a b). Fix: fix it."


@pytest.mark.parametrize(
    ("error", "code"),
    [(NemoMcpoError, 1), (ConfigError, 2), (DataError, 1), (CheckpointError, 1), (StorageError, 1), (RolloutError, 1)],
)
def test_exit_codes(error, code):
    assert issubclass(error, NemoMcpoError)
    assert error.exit_code == code


def test_the_parts_are_attributes():
    error = ConfigError("w", where="k", got=1, expected=2, fix="c")
    assert (error.what, error.where, error.got, error.expected, error.fix) == ("w", "k", 1, 2, "c")
