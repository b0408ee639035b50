#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Evaluate a run's newest checkpoint: its win rate against its initial policy on held-out prompts, decided by a judge.
#
#   RUN=/shared/results/mcpo_llama8b EVAL_DATA=/shared/data/held_out.jsonl sbatch slurm/evaluate.sh \
#       model.data.format=jsonl judge.server.model=/shared/models/Judge-70B judge.server.tensor_parallel_size=8
#   RUN=/shared/models/Other BASELINE=/shared/models/SFT … sbatch slurm/evaluate.sh …   # any two models
#   bash slurm/evaluate.sh --dry-run                                                  # print the plan; needs no Slurm
#
# Runs on one node, whose GPUs serve the policies and then the judge. A restarted job skips finished work.
#SBATCH --job-name=mcpo_evaluate
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --gres=gpu:8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.log
set -euo pipefail
NEMO_MCPO_JOB=mcpo_evaluate
# shellcheck source=slurm/common.sh
for root in "${NEMO_MCPO_ROOT:-}" "$(dirname "$0")/.." "${SLURM_SUBMIT_DIR:-.}" "${SLURM_SUBMIT_DIR:-.}/.."; do
    [ ! -f "$root/slurm/common.sh" ] || { source "$root/slurm/common.sh" && break; }
done
[ -n "${ROOT:-}" ] || { echo "error: no slurm/common.sh. Fix: submit from the repository, or set NEMO_MCPO_ROOT" >&2 && exit 2; }

evaluate() { # run or Hugging Face directory, config name, overrides of the job
    local policy="$1" checkpoint out
    checkpoint="$(find "$1/checkpoints" -maxdepth 1 -name 'step-*[0-9]' 2>/dev/null | sort | tail -n 1 || true)"
    out="$RUN_DIR/$(basename "$1")${checkpoint:+-${checkpoint##*/}}"
    if [ -n "$checkpoint" ]; then
        policy="$out/huggingface"
        [ -d "$policy" ] || nemo_mcpo_step 0 1 1 "$PYTHON" "$ROOT/scripts/export_model.py" --checkpoint "$checkpoint" --out "$policy"
        [ "$CODE" -eq 0 ] || return 0
    fi
    nemo_mcpo_words scripts/evaluate.py "${@:2}" ${SERVER_WORDS[@]+"${SERVER_WORDS[@]}"} "model.data.train=${EVAL_DATA:-???}" "model.data.validation=${EVAL_DATA:-???}"
    nemo_mcpo_serving 0 "${WORDS[@]}" --policy "$policy" --baseline "${BASELINE:-${MODEL:-???}}" --out "$out"
    $DRY_RUN || [ "$CODE" -ne 0 ] || sed -n 's/^0: win rate/win rate/p' "$LOG"
}

nemo_mcpo_begin "$@"
RUN="${RUN:-${RUN_DIR%/*}/mcpo_llama8b}"
if [ -n "${CONFIG:-}" ]; then
    evaluate "$RUN" "$CONFIG"
else
    evaluate "$RUN" gpt_onmcpo rollouts.engine=openai "rollouts.server.replicas=$TASKS_PER_NODE"
fi
nemo_mcpo_end
