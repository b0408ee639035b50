#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run every check and test, from any directory, on any machine with Python 3.11; exits with 0 only if all pass.
#
#   bash scripts/test.sh                           checks (as in .pre-commit-config.yaml), then all tests
#   bash scripts/test.sh tests/unit -k kernel      only pytest, with these arguments
set -uo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
nemo_mcpo_environment || exit 1
cd "$NEMO_MCPO_ROOT" || exit 1

if [ "$#" -gt 0 ]; then
    exec python -m pytest "$@"
fi

failed=()
check() {
    nemo_mcpo_say "$*"
    "$@" || failed+=("$*")
}
check ruff check
check ruff format --check --quiet
check mypy
check codespell
check shellcheck -x .ci/run scripts/*.sh slurm/*.sh
check hadolint Dockerfile
# Two workers with one thread each, since half of the time is spent starting processes.
check env OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

if [ "${#failed[@]}" -gt 0 ]; then
    nemo_mcpo_say "failed after $SECONDS s: $(printf '%s; ' "${failed[@]}")"
    exit 1
fi
nemo_mcpo_say "everything passed in $SECONDS s"
