# SPDX-License-Identifier: Apache-2.0
"""Keeps what dependencies say about themselves at every start out of the user's sight; errors still come through."""

from __future__ import annotations

import logging
import warnings

_CHATTY_LOGGERS = (
    "nv_one_logger",  # telemetry that is off
    "lightning.pytorch.utilities.rank_zero",  # which accelerators Lightning, which trains nothing here, would use
)
_KNOWN_WARNINGS = "Transformer Engine and Apex are not installed"  # ``doctor`` says so, with what it means


def quiet_dependencies() -> None:
    """Call it before they are imported."""
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=_KNOWN_WARNINGS)
