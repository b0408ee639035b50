# SPDX-License-Identifier: Apache-2.0
"""Checks what this package requires, since it is installed without its dependencies in a container."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nemo_mcpo.platform.packages import PACKAGES, is_installed, run_checks
from nemo_mcpo.platform.report import Row

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MODULES = {"hydra-core": "hydra", "megatron-core": "megatron.core", "nemo-toolkit": "nemo"}
"""Distribution -> the module to import, if it has another name."""

_FIX = "in a container: python scripts/complete_container.py; elsewhere: install requirements/cpu.lock"


def requirements() -> list[Requirement]:
    """Return what setup.py requires here, without extras; empty if this package is not installed."""
    # Imported late: without it, doctor can still show the other rows of its table.
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("nemo_mcpo") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    named = map(Requirement, lines)
    return [one for one in named if one.marker is None or one.marker.evaluate({"extra": ""})]


def module_of(requirement: Requirement) -> str:
    return MODULES.get(requirement.name, requirement.name.replace("-", "_"))


def missing(wanted: Sequence[Requirement]) -> list[Requirement]:
    """Return the requirements that cannot be found."""
    return [one for one in wanted if not is_installed(module_of(one))]


def of_other_versions(wanted: Sequence[Requirement]) -> list[str]:
    """Return a line for each requirement that is installed in a version that setup.py does not allow."""
    found = []
    for one in wanted:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # missing, or a source tree on the path, as for some packages in the container
        if not one.specifier.contains(version, prereleases=True):
            found.append(f"{one.name} is {version}, not {one.specifier}")
    return found


def broken(wanted: Sequence[Requirement]) -> list[str]:
    """Return a line for each requirement that is found but cannot be imported, if it has no row of its own."""
    own_rows = {name for package in PACKAGES for name in package.distributions}
    checks = {one.name: f"import {module_of(one)}" for one in wanted if one.name not in own_rows}
    return [f"{name}: {outcome.reason}" for name, outcome in run_checks(checks).items() if outcome.reason]


def requirement_rows() -> tuple[Row, ...]:
    """Return one row about all requirements; none if this package is not installed."""
    wanted = requirements()
    return (requirement_row(wanted),) if wanted else ()


def requirement_row(wanted: Sequence[Requirement]) -> Row:
    """Return the row: a failure if a package is missing or broken; another version may work, and is only shown."""
    lacking = missing(wanted)
    present = [one for one in wanted if one not in lacking]
    bad, other = broken(present), of_other_versions(present)
    reason = "; ".join([*(f"{one.name} is not installed" for one in lacking), *bad, *other])
    status = "missing" if lacking else "broken" if bad or other else "ok"
    found = f"{len(wanted) - len(lacking) - len(bad)} of {len(wanted)}"
    required = bool(lacking or bad)
    return Row("requirements", status, found, "what setup.py names", reason, _FIX if reason else "", required)
