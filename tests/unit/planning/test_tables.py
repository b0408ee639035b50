# SPDX-License-Identifier: Apache-2.0
"""docs/planning.md has the tables that the command prints."""

from __future__ import annotations

import pytest

from nemo_mcpo.planning.tables import markdown
from tests.support.configs import ROOT, compose


def test_the_tables_of_the_documentation_are_those_of_the_command():
    if markdown(compose(name="gpt_mcpo", world_size=8)) not in (ROOT / "docs" / "planning.md").read_text():
        pytest.fail("docs/planning.md differs from the output of python scripts/plan.py --table")
