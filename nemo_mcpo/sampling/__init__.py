# SPDX-License-Identifier: Apache-2.0
"""Which of a prompt's completions become negatives: kernel weights and samplers, as pure functions.

A sampler is ``draw(log_weights, valid, num_negatives, generator, **params) -> columns [B, M]``; slots that cannot be
filled hold -1. A new one is a function with this signature in a file of its own, and a line in ``SAMPLERS``.

>>> rewards, valid = torch.tensor([[5.0, 0.0, 100.0, 0.0]]), torch.tensor([[False, True, True, True]])
>>> log_weights = kernel_log_weights(rewards, beta=1.0, valid=valid)
>>> SAMPLERS["mc_kernel"](log_weights, valid, 1, torch.Generator().manual_seed(0))
tensor([[2]])
>>> draw = bind_sampler("max", {"replacement": False, "chain_steps": 1, "chain_candidates": None})
>>> draw(log_weights, valid, 1, torch.Generator())
tensor([[2]])
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.sampling.chain import check_chain
from nemo_mcpo.sampling.extremes import draw_max, draw_min
from nemo_mcpo.sampling.given import draw_given
from nemo_mcpo.sampling.kernel import effective_sample_size, entropy, kernel_log_weights, total_variation
from nemo_mcpo.sampling.mc_kernel import draw_kernel
from nemo_mcpo.sampling.seeding import draw_for_prompts, draw_generator, draw_seed
from nemo_mcpo.sampling.uniform import draw_uniform

__all__ = [
    "SAMPLERS",
    "bind_sampler",
    "check_chain",
    "draw_for_prompts",
    "draw_generator",
    "draw_seed",
    "effective_sample_size",
    "entropy",
    "kernel_log_weights",
    "total_variation",
]

SAMPLERS: dict[str, Callable[..., torch.Tensor]] = {
    "mc_kernel": draw_kernel,
    "random": draw_uniform,
    "max": draw_max,
    "min": draw_min,
    "given": draw_given,
}


def bind_sampler(name: str, params: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    """The sampler ``name`` with those of ``params`` that it declares.

    A parameter that it does not declare has to be switched off, that is, equal to the default of another sampler's:
    ``chain_steps=3`` with ``max`` would otherwise be a setting without effect.
    """
    if name not in SAMPLERS:
        raise ConfigError(
            "unknown sampler",
            where="model.mcpo.sampler",
            got=name,
            expected=f"one of {', '.join(sorted(SAMPLERS))}",
            cure="choose one of these names",
        )
    switched_off = {key: value for sampler in SAMPLERS.values() for key, value in _declared(sampler).items()}
    sampler = SAMPLERS[name]
    for key in params.keys() - _declared(sampler).keys():
        if key not in switched_off or params[key] != switched_off[key]:
            raise ConfigError(
                f"sampler {name} has no parameter {key}",
                where=f"model.mcpo.{key}",
                got=params[key],
                expected=switched_off.get(key, "no such parameter"),
                cure=f"leave {key} at its default, or choose a sampler that uses it",
            )
    return functools.partial(sampler, **{key: params[key] for key in params.keys() & _declared(sampler).keys()})


def _declared(sampler: Callable[..., torch.Tensor]) -> dict[str, Any]:
    """The sampler's own parameters and their defaults."""
    parameters = inspect.signature(sampler).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
