#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The paper's sweep: 7 learning rates x 3 seeds, each a run of its own, on one prepared dataset and one reference cache.
#
#   bash slurm/sweep.sh trainer.mcpo.val_check_interval=200         # submits three jobs, the next waits for the one before:
#                                                                   # the cache, the array of runs, the collector's table
#   LRS="1e-6 2e-6" SEEDS="1 2" METRIC=val_loss bash slurm/sweep.sh # another grid, another metric
#   bash slurm/sweep.sh --dry-run                                   # the plan; also outside Slurm
#   SBATCH_OPTIONS="--nodes=2 --time=12:00:00" bash slurm/sweep.sh  # more for sbatch
#
# Printed again, also while runs go on: python scripts/collect_sweep.py <results>/mcpo_sweep --metric "$METRIC"
#SBATCH --job-name=mcpo_sweep
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --gres=gpu:8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.log
set -euo pipefail
NEMO_MCPO_JOB=mcpo_sweep
# shellcheck source=slurm/common.sh
for root in "${NEMO_MCPO_ROOT:-}" "$(dirname "$0")/.." "${SLURM_SUBMIT_DIR:-.}"; do
    [ ! -f "$root/slurm/common.sh" ] || { source "$root/slurm/common.sh" && break; }
done
read -ra RATES <<<"${LRS:-8e-7 1e-6 2e-6 5e-6 8e-6 1e-5 2e-5}"
read -ra STARTS <<<"${SEEDS:-1 2 3}"
RUNS=$((${#RATES[@]} * ${#STARTS[@]}))

sweep_submit() { # overrides
    local options cache runs table
    read -ra options <<<"${SBATCH_OPTIONS:-}"
    export NEMO_MCPO_ROOT="$ROOT"
    cache="$(SWEEP_STAGE=cache sbatch --parsable ${options[@]+"${options[@]}"} "$ROOT/slurm/sweep.sh" "$@")"
    runs="$(SWEEP_STAGE=run sbatch --parsable ${options[@]+"${options[@]}"} --array="0-$((RUNS - 1))" --output=%x-%A_%a.log \
        --dependency="afterok:$cache" --kill-on-invalid-dep=yes "$ROOT/slurm/sweep.sh" "$@")"
    table="$(SWEEP_STAGE=table sbatch --parsable ${options[@]+"${options[@]}"} --nodes=1 --gres=none --time=10 \
        --dependency="afterany:$runs" "$ROOT/slurm/sweep.sh")"
    echo "cache: job $cache; $RUNS runs: array $runs; table: job $table"
}

sweep_run() { # one point of the grid
    local lr="${RATES[$(($1 / ${#STARTS[@]}))]}" seed="${STARTS[$(($1 % ${#STARTS[@]}))]}" && shift
    RUN_NAME="lr-$lr-seed-$seed"
    nemo_mcpo_begin "$@"
    nemo_mcpo_train "${CONFIG:-gpt_mcpo}" "model.optim.lr=$lr" "model.seed=$seed"
}

sweep_cache() {
    RUN_NAME=cache
    nemo_mcpo_begin "$@"
    nemo_mcpo_words scripts/prepare_reference.py "${CONFIG:-gpt_mcpo}"
    nemo_mcpo_step 0 "$NODES" "$TASKS_PER_NODE" "${WORDS[@]}"
}

for word in "$@"; do
    case "$word" in model.optim.lr=* | model.seed=*) die "the sweep sets ${word%%=*}. Cure: LRS=\"…\" SEEDS=\"…\"" ;; esac
done
case "${SWEEP_STAGE:-} $*" in
    *--dry-run*)
        say "1. the cache" && sweep_cache "$@"
        say "2. $RUNS runs: learning rates ${RATES[*]}, seeds ${STARTS[*]}; the first:" && sweep_run 0 "$@"
        ;;
    cache*) sweep_cache "$@" ;;
    run*) sweep_run "$SLURM_ARRAY_TASK_ID" "$@" ;;
    table*)
        TASKS_PER_NODE=1
        nemo_mcpo_begin
        nemo_mcpo_step 0 1 1 "$PYTHON" "$ROOT/scripts/collect_sweep.py" "$RUN_DIR" --metric "${METRIC:-rewards/accuracy}"
        sed -n 's/^0: //p' "$LOG"
        ;;
    *)
        sweep_submit "$@"
        exit 0
        ;;
esac
nemo_mcpo_end
