#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""What this machine has, what it enables, what is missing: ``python scripts/doctor.py [--json]``."""

import sys
from pathlib import Path

# The doctor must also work where the package is not installed yet.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_mcpo.platform.doctor import main

if __name__ == "__main__":
    raise SystemExit(main())
