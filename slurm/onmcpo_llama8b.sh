#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train Llama-3.1-8B with OnMC-PO on one node of 8 A100-80GB or newer: three segments, each of which exports, generates
# (TensorRT-LLM, one replica per GPU), judges and trains. A restarted job skips finished stages.
#
#   sbatch slurm/onmcpo_llama8b.sh judge.server.model=/shared/models/Judge-70B judge.server.tensor_parallel_size=8
#   sbatch --gres=gpu:8 : --nodes=1 --gres=gpu:8 --exclusive slurm/onmcpo_llama8b.sh …    # separate nodes for servers
#   bash slurm/onmcpo_llama8b.sh --dry-run                                             # print the plan; needs no Slurm
#
# On the time limit, a preemption or `scancel --signal=USR1`, it saves, requeues itself and continues.
#SBATCH --job-name=onmcpo_llama8b
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --gres=gpu:8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.log
set -euo pipefail
NEMO_MCPO_JOB=onmcpo_llama8b
# shellcheck source=slurm/common.sh
for root in "${NEMO_MCPO_ROOT:-}" "$(dirname "$0")/.." "${SLURM_SUBMIT_DIR:-.}" "${SLURM_SUBMIT_DIR:-.}/.."; do
    [ ! -f "$root/slurm/common.sh" ] || { source "$root/slurm/common.sh" && break; }
done
[ -n "${ROOT:-}" ] || { echo "error: no slurm/common.sh. Fix: submit from the repository, or set NEMO_MCPO_ROOT" >&2 && exit 2; }

nemo_mcpo_begin "$@"
if [ -n "${CONFIG:-}" ]; then
    nemo_mcpo_online "$CONFIG"
else
    nemo_mcpo_online gpt_onmcpo rollouts.engine=openai "rollouts.server.replicas=$TASKS_PER_NODE"
fi
nemo_mcpo_end
