#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train Llama-3.1-8B with MC-PO on Nectar as in the paper (batch 128, 2 epochs, β 0.01), on one node of 8 A100-80GB or newer.
#
#   sbatch slurm/mcpo_llama8b.sh                                    # with paths set in slurm/site.env
#   sbatch --nodes=2 slurm/mcpo_llama8b.sh model.optim.lr=1e-6      # Hydra overrides follow the script
#   bash slurm/mcpo_llama8b.sh --dry-run                            # print the plan; needs no Slurm
#
# On the time limit, a preemption or `scancel --signal=USR1`, it saves, requeues itself and continues.
#SBATCH --job-name=mcpo_llama8b
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
NEMO_MCPO_JOB=mcpo_llama8b
# shellcheck source=slurm/common.sh
for root in "${NEMO_MCPO_ROOT:-}" "$(dirname "$0")/.." "${SLURM_SUBMIT_DIR:-.}" "${SLURM_SUBMIT_DIR:-.}/.."; do
    [ ! -f "$root/slurm/common.sh" ] || { source "$root/slurm/common.sh" && break; }
done
[ -n "${ROOT:-}" ] || { echo "error: no slurm/common.sh. Fix: submit from the repository, or set NEMO_MCPO_ROOT" >&2 && exit 2; }

nemo_mcpo_begin "$@"
nemo_mcpo_train "${CONFIG:-gpt_mcpo}"
nemo_mcpo_end
