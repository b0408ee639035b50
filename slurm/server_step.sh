#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run a server as its own Slurm step, beside the stage that needs it: in SERVER_IMAGE, or on several nodes.
#
#   rollouts.server.prefix=[slurm/server_step.sh]                                                   # common.sh sets this with SERVER_IMAGE
#   rollouts.server.prefix=[slurm/server_step.sh,--nodes=2,--ntasks-per-node=4,--ntasks=8,--mpi=pmix]     # options of srun
#
# The stage runs inside a step, usually in a container without srun. So this script asks the job script, which watches the
# directory NEMO_MCPO_SERVER_STEPS (nemo_mcpo_serve in common.sh), to start the step. It waits for the step, stops it when
# it is stopped itself, and returns its exit code.
set -uo pipefail
directory="${NEMO_MCPO_SERVER_STEPS:-}"
[ -d "$directory" ] || { echo 'error: no job script to start server steps. Fix: start the run with slurm/*.sh, or remove this prefix' >&2 && exit 2; }
OPTIONS=()
while [ $# -gt 0 ] && [[ "$1" == --* ]]; do OPTIONS+=("$1") && shift; done
[ $# -gt 0 ] || { echo 'error: no program to start. Fix: use slurm/server_step.sh [--option=value …] program arguments' >&2 && exit 2; }
request="$directory/${SLURMD_NODENAME:-$HOSTNAME}-$$"
log="$(readlink -f /proc/self/fd/1)"
[ -f "$log" ] || log="$request.log" # stdout is a pipe: print the log when the server ends

printf 'NODE=%q LOG=%q DEVICES=%q NAMES=%q\nOPTIONS=(%s)\nWORDS=(%s)\n' "${SLURMD_NODENAME:-}" "$log" "${CUDA_VISIBLE_DEVICES:-}" \
    "$(compgen -e | grep -vxE 'SLURM.*|CUDA_VISIBLE_DEVICES|PWD|OLDPWD|SHLVL|_' | paste -sd, -)" \
    "${OPTIONS[*]@Q}" "${*@Q}" >"$request.new"
mv "$request.new" "$request.request"
trap 'touch "$request.stop"' TERM INT HUP
until [ -f "$request.code" ]; do sleep 0.5 & wait $!; done
[ ! -f "$request.log" ] || cat "$request.log" >&2
code="$(cat "$request.code")"
rm -f "$request".*
exit "$code"
