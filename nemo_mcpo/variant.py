# SPDX-License-Identifier: Apache-2.0
"""An entry in a table of variants: a function, its typed parameters, and what it needs from a run.

The parameters of a variant are the keyword-only parameters of its function: an objective, a sampler, a judge's or an
engine's ``build``, a launcher's ``command``. Annotations define the allowed values, and defaults are those that the
method's authors recommend. A configuration sets parameters next to the name: ``{name: hinge, margin: 2.0}``.

>>> from pydantic import PositiveFloat
>>> @variant(Need.NEGATIVES)
... def hinge(margins: list[float], *, margin: PositiveFloat = 1.0) -> float:
...     return max(margin - value for value in margins)
>>> hinge([0.25]), bind(hinge.function, {"margin": 2.0}, "model.mcpo.objective")([0.25])
(0.75, 1.75)
>>> bind(hinge.function, {"margin": -1.0}, "model.mcpo.objective")
Traceback (most recent call last):
nemo_mcpo.errors.ConfigError: model.mcpo.objective.margin: not a valid value (got -1.0, expected greater than 0)...
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from inspect import Parameter
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError, create_model

from nemo_mcpo.config.parsing import config_error
from nemo_mcpo.config.schema import Section
from nemo_mcpo.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Entry = TypeVar("Entry")


class Need(StrEnum):
    """What a variant needs from a run; the value is its name in the documentation."""

    NEGATIVES = "negatives"
    REFERENCE = "reference log-probs"
    SCORES = "scores"
    RANKS = "ranks"
    STATISTICS = "batch statistics"
    SCORING = "scoring pass"
    ORDER = "the data's own order"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of the whole batch that an objective reads one step later, the same in every layout.

    Attributes:
        initial: values before the first step, by name.
        update: pure function of the current values and the step's metrics (each ``[B]``, on the CPU); returns the
            next values.
    """

    initial: Mapping[str, float] = field(default_factory=dict)
    update: Callable[[Mapping[str, float], Mapping[str, Tensor]], Mapping[str, float]] = lambda known, metrics: known


@dataclass(frozen=True)
class Variant:
    """A variant; call it like ``function``.

    Attributes:
        needs: what a run must provide.
        statistics: for an objective that has ``Need.STATISTICS``.
    """

    function: Callable[..., Any]
    needs: frozenset[Need]
    statistics: Statistics = Statistics()

    def __call__(self, *args: Any, **parameters: Any) -> Any:
        return self.function(*args, **parameters)

    def __post_init__(self) -> None:
        # help(), inspect and doctest see the function.
        vars(self).update(__doc__=self.function.__doc__, __wrapped__=self.function)


def variant(*needs: Need, statistics: Statistics | None = None) -> Callable[[Callable[..., Any]], Variant]:
    """Return a decorator that makes a function a variant with these needs."""
    every = frozenset(needs) if statistics is None else frozenset({*needs, Need.STATISTICS})
    return lambda function: Variant(function, every, statistics or Statistics())


@functools.cache
def parameters_of(function: Callable[..., Any]) -> type[Section]:
    """Return a strict pydantic model of a function's keyword-only parameters."""
    own = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    # Annotations are evaluated only if there are parameters: others may name types that are not imported.
    known = inspect.signature(function, eval_str=True).parameters if own else {}
    fields: dict[str, Any] = {
        name: (known[name].annotation, ... if known[name].default is Parameter.empty else known[name].default)
        for name in own
    }
    return create_model(function.__name__, __base__=Section, **fields)


def bind(function: Callable[..., Any], given: Mapping[str, object], where: str) -> Callable[..., Any]:
    """Return the function with its keyword-only parameters bound, after checking them.

    Args:
        given: parameters by name; those left out keep their defaults.
        where: the configuration key that names the variant.

    Raises:
        ConfigError: a parameter is unknown, missing, or not valid.
    """
    model = parameters_of(function)
    try:
        checked = model.model_validate(dict(given))
    except ValidationError as problem:
        raise config_error(problem, model, where) from None
    return functools.partial(function, **dict(checked))


def entry(table: Mapping[str, Entry], name: str, kind: str, where: str) -> Entry:
    """Return the entry of a table; raise ConfigError with the known names if there is none."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    fix = f"did you mean {close[0]}?" if close else "choose one of these names"
    if ":" in name:  # a shell splits {name:…,parameter:…} at the comma
        fix = f"put the override in quotes: '{where}={{name: …, parameter: …}}'"
    raise ConfigError(
        f"unknown {kind}",
        where=where,
        got=name,
        expected=f"one of: {', '.join(table)}",
        fix=fix,
    )
