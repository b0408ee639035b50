#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A server as a Slurm step of its own, beside the stage that needs it: in SERVER_IMAGE, or over several nodes.
#
#   rollouts.server.prefix=[slurm/server_step.sh]                                                   # common.sh sets this for SERVER_IMAGE
#   rollouts.server.prefix=[slurm/server_step.sh,--nodes=2,--ntasks-per-node=4,--ntasks=8,--mpi=pmix]     # options of srun
#
# The stage runs inside a step, mostly in a container, where there is no srun. So this asks the job's script, which watches
# the directory NEMO_MCPO_SERVER_STEPS (nemo_mcpo_serve in common.sh), to start the step; it lives as long as the step does,
# ends it when it is ended, and has its exit code.
set -uo pipefail
directory="${NEMO_MCPO_SERVER_STEPS:-}"
[ -d "$directory" ] || { echo 'error: no job script takes requests for steps. Fix: start the run by slurm/*.sh, or drop this prefix' >&2 && exit 2; }
OPTIONS=()
while [ $# -gt 0 ] && [[ "$1" == --* ]]; do OPTIONS+=("$1") && shift; done
[ $# -gt 0 ] || { echo 'error: no program to start. Fix: slurm/server_step.sh [--option=value …] program arguments' >&2 && exit 2; }
request="$directory/${SLURMD_NODENAME:-$HOSTNAME}-$$"
log="$(readlink -f /proc/self/fd/1)"
[ -f "$log" ] || log="$request.log" # a pipe: what it says is printed at its end

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
