# SPDX-License-Identifier: Apache-2.0
"""Runs ``scripts/plan.py`` in this process."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from tests.support.configs import ROOT

SCRIPT = ROOT / "scripts" / "plan.py"
main = runpy.run_path(str(SCRIPT))["main"]


def plan(directory: Path, *arguments: str) -> dict:
    """Return the plan as read from its JSON file."""
    main([*arguments, "--json", str(directory / "plan.json")])
    return json.loads((directory / "plan.json").read_text())
