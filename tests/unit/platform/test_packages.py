# SPDX-License-Identifier: Apache-2.0
"""A package that is missing, broken, or kills the interpreter is a row with its reason, never a crash."""

import sys

from nemo_mcpo.platform.packages import (
    PACKAGES,
    Outcome,
    Package,
    installed_version,
    is_installed,
    package_row,
    package_rows,
    run_checks,
)


def package(name: str, module: str, check: str) -> Package:
    return Package(
        name, module, (module,), check, enables="x", install="install it", repair="repair it", required=True
    )


def test_every_check_has_an_outcome_even_after_a_crash():
    outcomes = run_checks(
        {
            "good": "detail = 40 + 2",
            "noisy": "print('printed on import'); import os; os.write(1, b'from C')",
            "broken": "raise ImportError('libcuda.so.1:\\ncannot open')",
            "exits": "raise SystemExit(3)",
            "aborts": "import os; os.abort()",
            "leaves": "import os; os._exit(7)",
            "last": "pass",
        }
    )
    assert outcomes == {
        "good": Outcome(detail="42"),
        "noisy": Outcome(),
        "broken": Outcome(reason="ImportError: libcuda.so.1: cannot open"),
        "exits": Outcome(reason="SystemExit: 3"),
        "aborts": Outcome(reason="importing it killed the interpreter with SIGABRT"),
        "leaves": Outcome(reason="importing it ended the interpreter with exit code 7"),
        "last": Outcome(),
    }


def test_a_check_that_hangs_is_named():
    outcomes = run_checks({"quick": "pass", "hangs": "import time; time.sleep(600)"}, timeout_seconds=2.0)
    assert outcomes["quick"] == Outcome()
    assert "did not finish in 2 s" in outcomes["hangs"].reason


def test_rows():
    absent = package("absent", "no_such_package_anywhere", "import no_such_package_anywhere")
    broken = package("broken", "json", "raise OSError('undefined symbol')")
    never_imported = package("never imported", "json", "")
    rows = package_rows((absent, broken, never_imported))
    assert [(row.status, row.reason, row.fix) for row in rows] == [
        ("missing", "", "install it"),
        ("broken", "OSError: undefined symbol", "repair it"),
        ("ok", "", ""),
    ]
    assert all(row.required for row in rows)


def test_detail_is_shown_next_to_the_version():
    row = package_row(package("torch", "torch", "x"), True, "2.13.0", Outcome(detail="CPU build"))
    assert row.found == "2.13.0 (CPU build)"


def test_finding_imports_nothing():
    assert is_installed("json") and not is_installed("json.no_such") and not is_installed("no_such.child")
    assert is_installed("xml.dom.pulldom") and "xml.dom.pulldom" not in sys.modules
    assert installed_version(("no-such-distribution", "pytest"))[0].isdigit()
    assert installed_version(("no-such-distribution",)) == "version not recorded"


def test_the_table_is_complete():
    names = [package.name for package in PACKAGES]
    assert len(set(names)) == len(names)
    assert names.index("Transformer Engine") < names.index("megatron-core"), "its repair refers to the rows above"
    assert all(package.enables and package.install for package in PACKAGES)
    assert all(package.check and package.repair for package in PACKAGES)
