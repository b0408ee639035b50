# SPDX-License-Identifier: Apache-2.0
"""Choosing which of a prompt's completions become negatives: kernel weights and samplers, as pure functions.

A sampler is ``draw(log_weights, valid, num_negatives, generator, **params) -> columns [B, M]``; slots that cannot be
filled hold -1. To add one, write a function with this signature in its own file and add a line to ``SAMPLERS``.

>>> rewards, valid = torch.tensor([[5.0, 0.0, 100.0, 0.0]]), torch.tensor([[False, True, True, True]])
>>> log_weights = kernel_log_weights(rewards, beta=1.0, valid=valid)
>>> SAMPLERS["mc_kernel"](log_weights, valid, 1, torch.Generator().manual_seed(0))
tensor([[2]])
>>> draw = bind_sampler("max", {}, {"replacement": False, "chain_steps": 1, "chain_candidates": None})
>>> draw(log_weights, valid, 1, torch.Generator())
tensor([[2]])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.sampling.chain import check_chain
from nemo_mcpo.sampling.extremes import draw_max, draw_min
from nemo_mcpo.sampling.given import draw_given
from nemo_mcpo.sampling.kernel import effective_sample_size, entropy, kernel_log_weights, total_variation
from nemo_mcpo.sampling.mc_kernel import draw_kernel
from nemo_mcpo.sampling.seeding import draw_for_prompts, draw_generator, draw_seed, draw_subset
from nemo_mcpo.sampling.uniform import draw_uniform
from nemo_mcpo.variant import Variant, bind, entry, parameters_of

__all__ = [
    "SAMPLERS",
    "bind_sampler",
    "check_chain",
    "draw_for_prompts",
    "draw_generator",
    "draw_seed",
    "draw_subset",
    "effective_sample_size",
    "entropy",
    "find_sampler",
    "kernel_log_weights",
    "total_variation",
]

KEY = "model.mcpo.sampler"

SAMPLERS: dict[str, Variant] = {
    "mc_kernel": draw_kernel,
    "random": draw_uniform,
    "max": draw_max,
    "min": draw_min,
    "given": draw_given,
}


def find_sampler(name: str) -> Variant:
    """Return the sampler with this name; raise ConfigError if there is none."""
    return entry(SAMPLERS, name, "sampler", KEY)


def bind_sampler(name: str, given: Mapping[str, object], shared: Mapping[str, object]) -> Callable[..., torch.Tensor]:
    """Return the sampler ``name`` with its parameters bound.

    Args:
        given: parameters set for this sampler, by name.
        shared: keys of ``model.mcpo`` that are parameters of some samplers. Each that this sampler lacks must have
            the default that another sampler gives it; otherwise ``chain_steps=3`` with ``max`` would have no effect.

    Raises:
        ConfigError: the name is unknown, or a parameter is unknown, missing, or invalid.
    """
    sampler = find_sampler(name)
    own = parameters_of(sampler.function).model_fields
    for key in (key for key in given if key in shared):
        raise ConfigError(
            "a key of model.mcpo, not of the sampler alone",
            where=f"{KEY}.{key}",
            got=given[key],
            fix=f"set model.mcpo.{key}",
        )
    every = [parameters_of(one.function).model_fields for one in SAMPLERS.values()]
    switched_off = {key: field.default for fields in every for key, field in fields.items()}
    for key, value in shared.items():
        if key not in own and (key not in switched_off or value != switched_off[key]):
            raise ConfigError(
                f"sampler {name} has no parameter {key}",
                where=f"model.mcpo.{key}",
                got=value,
                expected=switched_off.get(key, "no such parameter"),
                fix=f"leave {key} at its default, or choose a sampler that uses it",
            )
    return bind(sampler.function, {**{key: value for key, value in shared.items() if key in own}, **given}, KEY)
