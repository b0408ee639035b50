# SPDX-License-Identifier: Apache-2.0
"""Every variant that a file defines is in the table of its kind."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from nemo_mcpo import judging, objectives, rollouts, sampling
from nemo_mcpo.data import formats
from nemo_mcpo.judging.judgement import JudgeKind
from nemo_mcpo.judging.judges import JUDGES
from nemo_mcpo.rollouts import launchers
from nemo_mcpo.rollouts.engine import EngineKind
from nemo_mcpo.rollouts.engines import ENGINES
from nemo_mcpo.variant import Variant


@pytest.mark.parametrize(
    ("room", "kind", "table"),
    [
        (objectives, Variant, objectives.OBJECTIVES),
        (sampling, Variant, sampling.SAMPLERS),
        (formats, formats.reader.Format, formats.FORMATS),
        (judging, JudgeKind, JUDGES),
        (rollouts, EngineKind, ENGINES),
        (launchers, launchers.Launcher, launchers.LAUNCHERS),
    ],
)
def test_every_entry_is_in_its_table(room, kind, table):
    modules = [importlib.import_module(f"{room.__name__}.{one.name}") for one in pkgutil.iter_modules(room.__path__)]
    defined = [value for module in modules for value in vars(module).values() if isinstance(value, kind)]
    missing = [value for value in defined if not any(value is one for one in table.values())]
    assert defined and not missing
