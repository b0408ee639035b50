# SPDX-License-Identifier: Apache-2.0
"""States arrive complete and in place on the writing replica, and return from the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.launch import fork

PROGRAM = Path(__file__).with_name("exchange_states.py")

pytestmark = pytest.mark.parallel


def test_every_number_arrives_in_its_place(tmp_path):
    done = fork(PROGRAM, [str(tmp_path), "dp2", "pp2", "interleaved"], processes=2)
    assert done.returncode == 0, done.stderr[-5000:]
