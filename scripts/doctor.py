#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Check this machine: what it has, what that enables, and what is missing: ``python scripts/doctor.py [--json]``.

With a configuration and overrides, also check what that run needs, such as the programs and models of its servers:

    python scripts/doctor.py gpt_onmcpo model.data.train=FILE pretrained_checkpoint.restore_from_path=DIR …
"""

import sys
from collections.abc import Sequence
from pathlib import Path

# The doctor must also work if the package is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_mcpo.platform.doctor import main
from nemo_mcpo.platform.report import Row

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"


def run_rows(words: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows about a run; unlike the others, these need more than the standard library."""
    from nemo_mcpo.algorithms.preflight import run_rows

    return run_rows(words, CONF)


if __name__ == "__main__":
    raise SystemExit(main(run_rows=run_rows))
