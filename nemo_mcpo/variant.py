# SPDX-License-Identifier: Apache-2.0
"""An entry in a table of variants: a function, its typed parameters, and what it needs from a run.

The parameters of a variant are the keyword-only parameters of its function. Annotations define the allowed values, and
defaults are those that the method's authors recommend. A configuration sets parameters next to the name:
``{name: hinge, margin: 2.0}``.

>>> from pydantic import PositiveFloat
>>> @variant(Need.NEGATIVES)
... def hinge(margins: list[float], *, margin: PositiveFloat = 1.0) -> float:
...     return max(margin - value for value in margins)
>>> hinge([0.25]), hinge.bind({"margin": 2.0}, "model.mcpo.objective")([0.25])
(0.75, 1.75)
>>> hinge.bind({"margin": -1.0}, "model.mcpo.objective")
Traceback (most recent call last):
nemo_mcpo.errors.ConfigError: model.mcpo.objective.margin: not a valid value (got -1.0, expected greater than 0)...
"""

from __future__ import annotations

import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError, create_model

from nemo_mcpo.config.parsing import config_error
from nemo_mcpo.config.schema import Section
from nemo_mcpo.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Entry = TypeVar("Entry")
Parameters = TypeVar("Parameters", bound=Section)


class Need(StrEnum):
    """What a variant needs from a run; the value is its name in the documentation."""

    NEGATIVES = "negatives"
    REFERENCE = "reference log-probs"
    SCORES = "scores"
    RANKS = "ranks"
    STATISTICS = "batch statistics"
    SCORING = "scoring pass"
    GIVEN = "the data's own order"


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

    @functools.cached_property
    def parameters(self) -> type[Section]:
        """Strict pydantic model of the keyword-only parameters."""
        own = [p for p in inspect.signature(self.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        hints = typing.get_type_hints(self.function, include_extras=True) if own else {}
        fields: dict[str, Any] = {p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in own}
        return create_model(self.function.__name__, __base__=Section, **fields)

    def bind(self, given: Mapping[str, object], where: str) -> Callable[..., Any]:
        """Return the function with these parameters bound, after checking them.

        Args:
            given: parameters by name; those left out keep their defaults.
            where: the configuration key that names the variant.

        Raises:
            ConfigError: a parameter is unknown, missing, or not valid.
        """
        return functools.partial(self.function, **dict(parameters_of(self.parameters, given, where)))


def variant(*needs: Need, statistics: Statistics | None = None) -> Callable[[Callable[..., Any]], Variant]:
    """Return a decorator that makes a function a variant with these needs."""
    every = frozenset(needs) if statistics is None else frozenset({*needs, Need.STATISTICS})
    return lambda function: Variant(function, every, statistics or Statistics())


def parameters_of(model: type[Parameters], given: Mapping[str, object], where: str) -> Parameters:
    """Return the checked parameters of an entry.

    Raises:
        ConfigError: a parameter is unknown, missing, or not valid; ``where`` is the key that names the entry.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as problem:
        raise config_error(problem, model, where) from None


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
