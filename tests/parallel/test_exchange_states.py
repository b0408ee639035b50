# SPDX-License-Identifier: Apache-2.0
"""States come whole and in their places to the replica that writes them, and back from the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.launch import run

PROGRAM = Path(__file__).with_name("exchange_states.py")

pytestmark = pytest.mark.parallel


def test_every_number_is_where_it_belongs(tmp_path):
    done = run(PROGRAM, [str(tmp_path), "dp2", "pp2", "interleaved"], processes=2)
    assert done.returncode == 0, done.stderr[-5000:]
