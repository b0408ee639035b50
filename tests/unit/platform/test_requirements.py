# SPDX-License-Identifier: Apache-2.0
"""A missing or broken requirement of setup.py is a failure; another version is only shown."""

import importlib.metadata

from packaging.requirements import Requirement

from nemo_mcpo.platform import requirements
from nemo_mcpo.platform.requirements import module_of, requirement_row

HERE = Requirement("packaging>=20")
ABSENT = Requirement("no-such-package-anywhere>=1")


def test_every_requirement_of_this_package_is_here():
    wanted = requirements.requirements()
    assert {"torch", "megatron-core", "nemo-toolkit", "openai", "pydantic"} <= {one.name for one in wanted}
    assert not {"pytest", "ruff", "flash-attn"} & {one.name for one in wanted}  # those of extras
    assert requirement_row(wanted).status == "ok"


def test_a_package_that_is_not_installed_has_none(monkeypatch):
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert requirements.requirement_rows() == ()


def test_modules_named_unlike_their_distribution():
    assert [module_of(Requirement(name)) for name in ("hydra-core", "nemo-toolkit", "a-b")] == ["hydra", "nemo", "a_b"]


def test_a_missing_one_fails():
    row = requirement_row([HERE, ABSENT])
    assert (row.status, row.found, row.required) == ("missing", "1 of 2", True)
    assert row.reason == "no-such-package-anywhere is not installed"
    assert "scripts/complete_container.py" in row.fix


def test_a_broken_one_fails(monkeypatch):
    monkeypatch.setitem(requirements.MODULES, "packaging", "json; raise OSError('undefined symbol')")
    monkeypatch.setattr(requirements, "is_installed", lambda module: True)
    row = requirement_row([HERE])
    assert (row.status, row.found, row.required) == ("broken", "0 of 1", True)
    assert row.reason == "packaging: OSError: undefined symbol"


def test_another_version_is_shown_and_passes():
    row = requirement_row([Requirement("packaging<1")])
    assert (row.status, row.required) == ("broken", False)
    assert row.reason == f"packaging is {importlib.metadata.version('packaging')}, not <1"


def test_pre_releases_fit():
    """NVIDIA's builds have such version numbers."""
    assert Requirement("torch>=2.10.0a0,<2.14").specifier.contains("2.10.0a0+b558c986e8.nv25.11", prereleases=True)
