# SPDX-License-Identifier: Apache-2.0
"""What training minimizes: one file per objective, each a pure function from log-probs to one loss per prompt.

An objective is ``objective(inputs: ObjectiveInputs, **hyper_parameters) -> ObjectiveOutputs``. A new one is such a
function in a file of its own, and a line in ``OBJECTIVES``.

>>> import math, torch
>>> zeros, valid = torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool)
>>> inputs = ObjectiveInputs(policy_logps=zeros, ref_logps=zeros, lengths=zeros + 5, valid=valid)
>>> OBJECTIVES["mcpo"](inputs, beta=0.01).loss, round(math.log(1 + 3), 4)
(tensor([1.3863]), 1.3863)
>>> bind_objective("dpo", {"beta": 0.01, "sampler": "max"})(inputs).loss, round(math.log(2), 4)
(tensor([0.6931]), 0.6931)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.objectives.dpo import dpo
from nemo_mcpo.objectives.mcpo import mcpo
from nemo_mcpo.objectives.sft import sft
from nemo_mcpo.records import ObjectiveInputs, ObjectiveOutputs

__all__ = ["OBJECTIVES", "REFERENCE_FREE", "bind_objective"]

OBJECTIVES: dict[str, Callable[..., ObjectiveOutputs]] = {
    "mcpo": mcpo,
    "dpo": dpo,
    "sft": sft,
}

# Objectives that never read ref_logps: with them a run needs no reference pass.
REFERENCE_FREE: frozenset[str] = frozenset({"sft"})


def bind_objective(name: str, params: Mapping[str, Any]) -> Callable[[ObjectiveInputs], ObjectiveOutputs]:
    """The objective ``name`` with those of the hyper-parameters ``params`` that its signature declares."""
    if name not in OBJECTIVES:
        raise ConfigError(
            "unknown objective",
            where="model.mcpo.objective",
            got=name,
            expected=f"one of {', '.join(sorted(OBJECTIVES))}",
            cure="choose one of these names",
        )
    _, *declared = inspect.signature(OBJECTIVES[name]).parameters.values()
    for parameter in declared:
        if parameter.name not in params and parameter.default is parameter.empty:
            raise ConfigError(
                f"objective {name} needs a hyper-parameter that is missing",
                where=f"model.mcpo.{parameter.name}",
                expected="a value",
                cure=f"set model.mcpo.{parameter.name}",
            )
    chosen = {parameter.name: params[parameter.name] for parameter in declared if parameter.name in params}
    return functools.partial(OBJECTIVES[name], **chosen)
