#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train and align a small model from scratch, on any machine with Python 3.11; run it again to continue after a stop.
#
#   bash scripts/quickstart.sh [--seed N]
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
nemo_mcpo_environment
cd "$NEMO_MCPO_ROOT"
exec python scripts/quickstart.py "$@"
