# SPDX-License-Identifier: Apache-2.0
"""The table is aligned, with reason and fix under their row."""

from nemo_mcpo.platform.report import Row, failures, render

ROWS = (
    Row("torch", "ok", "2.13.0", "everything", required=True),
    Row("Apex", "broken", "0.9", "fused Adam", reason="ImportError: amp_C", fix="pip uninstall apex"),
    Row("NeMo", "missing", "", "exp_manager", fix="install it", required=True),
)


def test_render():
    assert render(ROWS).splitlines() == [
        "ok       torch  2.13.0  everything",
        "broken   Apex   0.9     fused Adam",
        "                why: ImportError: amp_C",
        "                fix: pip uninstall apex",
        "missing  NeMo           exp_manager",
        "                fix: install it",
    ]


def test_only_required_rows_count_as_failures():
    assert failures(ROWS) == ["NeMo"]
