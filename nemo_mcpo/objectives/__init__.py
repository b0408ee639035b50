# SPDX-License-Identifier: Apache-2.0
"""Training objectives: one file per objective, each a pure function from log-probs to one loss per prompt.

An objective is ``objective(inputs: ObjectiveInputs, *, parameters) -> ObjectiveOutputs``; its decorator lists what it
needs from a run. To add one, write such a function in its own file and add a line to ``OBJECTIVES``.

>>> import math, torch
>>> zeros, valid = torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool)
>>> inputs = ObjectiveInputs(policy_logps=zeros, ref_logps=zeros, lengths=zeros + 5, valid=valid)
>>> OBJECTIVES["mcpo"](inputs, beta=0.01).loss, round(math.log(1 + 3), 4)
(tensor([1.3863]), 1.3863)
>>> bind_objective("dpo", {}, beta=0.01)(inputs).loss, round(math.log(2), 4)
(tensor([0.6931]), 0.6931)
"""

from __future__ import annotations

from collections.abc import Mapping

from nemo_mcpo.config.schema import MCPO
from nemo_mcpo.objectives.dpo import dpo
from nemo_mcpo.objectives.mcpo import mcpo
from nemo_mcpo.objectives.sft import sft
from nemo_mcpo.records import Objective, ObjectiveInputs
from nemo_mcpo.sampling import find_sampler
from nemo_mcpo.variant import Need, Variant, bind, entry, parameters_of

__all__ = ["OBJECTIVES", "ObjectiveInputs", "bind_objective", "find_objective", "run_needs"]

KEY = "model.mcpo.objective"

OBJECTIVES: dict[str, Variant] = {
    "mcpo": mcpo,
    "dpo": dpo,
    "sft": sft,
}


def find_objective(name: str) -> Variant:
    """Return the objective with this name; raise ConfigError if there is none."""
    return entry(OBJECTIVES, name, "objective", KEY)


def bind_objective(name: str, given: Mapping[str, object], beta: float) -> Objective:
    """Return the objective ``name`` with its parameters bound.

    Args:
        given: parameters set for this objective, by name.
        beta: the kernel's; an objective that has a ``beta`` uses it unless ``given`` sets one.

    Raises:
        ConfigError: the name is unknown, or a parameter is unknown, missing, or invalid.
    """
    objective = find_objective(name)
    shared = {"beta": beta} if "beta" in parameters_of(objective.function).model_fields else {}
    return bind(objective.function, {**shared, **given}, KEY)


def run_needs(mcpo: MCPO) -> frozenset[Need]:
    """Return what a run with these settings needs; the sampler counts only if the objective uses negatives."""
    needs = find_objective(mcpo.objective.name).needs
    return needs | find_sampler(mcpo.sampler.name).needs if Need.NEGATIVES in needs else needs
