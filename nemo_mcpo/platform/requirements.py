# SPDX-License-Identifier: Apache-2.0
"""What this package requires, and what of it is missing: in a container it is installed without its dependencies."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nemo_mcpo.platform.packages import PACKAGES, is_installed, run_checks
from nemo_mcpo.platform.report import Row

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MODULES = {"hydra-core": "hydra", "megatron-core": "megatron.core", "nemo-toolkit": "nemo"}
"""What is imported of a distribution, where it is not named after it."""

_CURE = "in a container: python scripts/complete_container.py; elsewhere: install requirements/cpu.lock"


def requirements() -> list[Requirement]:
    """What setup.py names for every machine; empty where this package is not installed."""
    # Not above: a Python that lacks it should still see the other rows of doctor's table.
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("nemo_mcpo") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    named = map(Requirement, lines)
    return [one for one in named if one.marker is None or one.marker.evaluate({"extra": ""})]


def module_of(requirement: Requirement) -> str:
    """What to import of it."""
    return MODULES.get(requirement.name, requirement.name.replace("-", "_"))


def missing(wanted: Sequence[Requirement]) -> list[Requirement]:
    """Those that cannot be found."""
    return [one for one in wanted if not is_installed(module_of(one))]


def of_other_versions(wanted: Sequence[Requirement]) -> list[str]:
    """Those that are recorded with a version that setup.py does not allow."""
    found = []
    for one in wanted:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # missing, or a source tree on the path, as the container has some
        if not one.specifier.contains(version, prereleases=True):
            found.append(f"{one.name} is {version}, not {one.specifier}")
    return found


def broken(wanted: Sequence[Requirement]) -> list[str]:
    """Those that are found and cannot be imported; packages with a row of their own are left to it."""
    own_rows = {name for package in PACKAGES for name in package.distributions}
    checks = {one.name: f"import {module_of(one)}" for one in wanted if one.name not in own_rows}
    return [f"{name}: {outcome.reason}" for name, outcome in run_checks(checks).items() if outcome.reason]


def requirement_rows() -> tuple[Row, ...]:
    """One row about all of them; none where this package is not installed."""
    wanted = requirements()
    return (requirement_row(wanted),) if wanted else ()


def requirement_row(wanted: Sequence[Requirement]) -> Row:
    """A missing or broken package ends in failure. One of another version may still work, so it is only shown."""
    lacking = missing(wanted)
    present = [one for one in wanted if one not in lacking]
    bad, other = broken(present), of_other_versions(present)
    reason = "; ".join([*(f"{one.name} is not installed" for one in lacking), *bad, *other])
    status = "missing" if lacking else "broken" if bad or other else "ok"
    found = f"{len(wanted) - len(lacking) - len(bad)} of {len(wanted)}"
    required = bool(lacking or bad)
    return Row("requirements", status, found, "what setup.py names", reason, _CURE if reason else "", required)
