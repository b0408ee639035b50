# SPDX-License-Identifier: Apache-2.0
"""An entry of a table of variants: a function with typed parameters of its own, and what it needs of a run.

The parameters of a variant are its function's keyword-only ones. Their annotations say what is allowed, their defaults
what the method's authors recommend; a configuration gives them beside the name, ``{name: hinge, margin: 2.0}``.

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


class Need(StrEnum):
    """What a variant needs of a run; the value is how documentation names it."""

    NEGATIVES = "negatives"
    REFERENCE = "reference log-probs"
    SCORES = "scores"
    RANKS = "ranks"
    STATISTICS = "batch statistics"
    SCORING = "scoring pass"
    GIVEN = "the data's own order"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers of the whole batch that an objective reads one step later, the same in every layout.

    Attributes:
        initial: by name, before the first step.
        update: the next numbers, from those at hand and the step's metrics, each ``[B]`` on the CPU; pure.
    """

    initial: Mapping[str, float] = field(default_factory=dict)
    update: Callable[[Mapping[str, float], Mapping[str, Tensor]], Mapping[str, float]] = lambda known, metrics: known


@dataclass(frozen=True)
class Variant:
    """Callable like ``function``.

    Attributes:
        needs: what a run must provide.
        statistics: of an objective that has ``Need.STATISTICS``.
    """

    function: Callable[..., Any]
    needs: frozenset[Need]
    statistics: Statistics = Statistics()

    def __call__(self, *args: Any, **parameters: Any) -> Any:
        return self.function(*args, **parameters)

    @functools.cached_property
    def parameters(self) -> type[Section]:
        """A strict model of the keyword-only parameters."""
        own = [p for p in inspect.signature(self.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        hints = typing.get_type_hints(self.function, include_extras=True) if own else {}
        fields: dict[str, Any] = {p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in own}
        return create_model(self.function.__name__, __base__=Section, **fields)

    @property
    def required(self) -> frozenset[str]:
        """Parameters without a default."""
        return frozenset(name for name, field in self.parameters.model_fields.items() if field.is_required())

    @property
    def summary(self) -> str:
        """What it is, by the first line of its file."""
        return (inspect.getmodule(self.function).__doc__ or "").strip().splitlines()[0]

    def bind(self, given: Mapping[str, object], where: str) -> Callable[..., Any]:
        """The function with checked parameters.

        Args:
            given: parameters by name; those left out keep their defaults.
            where: the key of the configuration that names the variant.

        Raises:
            ConfigError: a parameter is unknown, missing, or not a valid value.
        """
        try:
            checked = self.parameters.model_validate(dict(given))
        except ValidationError as problem:
            raise config_error(problem, self.parameters, where) from None
        return functools.partial(self.function, **dict(checked))


def variant(*needs: Need, statistics: Statistics | None = None) -> Callable[[Callable[..., Any]], Variant]:
    """Decorate the function of a variant with what it needs."""
    every = frozenset(needs) if statistics is None else frozenset({*needs, Need.STATISTICS})
    return lambda function: Variant(function, every, statistics or Statistics())


def entry(table: Mapping[str, Entry], name: str, kind: str, where: str) -> Entry:
    """The entry of a table; ConfigError that lists the known names where there is none."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    raise ConfigError(
        f"unknown {kind}",
        where=where,
        got=name,
        expected=f"one of: {', '.join(table)}",
        fix=f"did you mean {close[0]}?" if close else "choose one of these names",
    )
