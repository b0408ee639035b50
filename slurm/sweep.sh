#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run the paper's sweep: 7 learning rates x 3 seeds, one run each, sharing a prepared dataset and a reference cache.
#
#   bash slurm/sweep.sh trainer.mcpo.val_check_interval=200         # submits three jobs that wait for each other:
#                                                                   # the cache, an array of runs, a table
#   LRS="1e-6 2e-6" SEEDS="1 2" METRIC=val_loss bash slurm/sweep.sh # another grid, another metric
#   bash slurm/sweep.sh --dry-run                                   # print the plan; needs no Slurm
#   SBATCH_OPTIONS="--nodes=2 --time=12:00:00" bash slurm/sweep.sh  # more options for sbatch
#
# Print the table at any time: python scripts/collect_sweep.py <results>/mcpo_sweep --metric "$METRIC"
#SBATCH --job-name=mcpo_sweep
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
NEMO_MCPO_JOB=mcpo_sweep
# shellcheck source=slurm/common.sh
for root in "${NEMO_MCPO_ROOT:-}" "$(dirname "$0")/.." "${SLURM_SUBMIT_DIR:-.}" "${SLURM_SUBMIT_DIR:-.}/.."; do
    [ ! -f "$root/slurm/common.sh" ] || { source "$root/slurm/common.sh" && break; }
done
[ -n "${ROOT:-}" ] || { echo "error: no slurm/common.sh. Fix: submit from the repository, or set NEMO_MCPO_ROOT" >&2 && exit 2; }
STAGE='' KEYS=()
for word in "$@"; do
    case "$word" in
        --stage=*) STAGE="${word#*=}" ;; # as arguments, since a site may not pass variables to its jobs
        --lrs=*) LRS="${word#*=}" ;;
        --seeds=*) SEEDS="${word#*=}" ;;
        --metric=*) METRIC="${word#*=}" ;;
        model.optim.lr=* | model.seed=*) die "the sweep sets ${word%%=*}. Fix: use LRS=\"…\" SEEDS=\"…\" instead" ;;
        *) KEYS+=("$word") ;;
    esac
done
LRS="${LRS:-8e-7 1e-6 2e-6 5e-6 8e-6 1e-5 2e-5}" SEEDS="${SEEDS:-1 2 3}" METRIC="${METRIC:-rewards/accuracy}"
read -ra RATES <<<"$LRS"
read -ra STARTS <<<"$SEEDS"
RUNS=$((${#RATES[@]} * ${#STARTS[@]}))

sweep_submit() { # overrides
    local options words cache runs table name logs
    local site="${NEMO_MCPO_SITE:-$ROOT/slurm/site.env}"
    # shellcheck source=slurm/site.env.example
    [ ! -f "$site" ] || source "$site"
    read -ra options <<<"${SBATCH_OPTIONS:-}"
    # This may be called from a job, whose variables must not reach the submitted jobs.
    for name in ${!SLURM_@}; do [ "$name" = SLURM_CONF ] || unset "$name"; done
    set -- "$ROOT/slurm/sweep.sh" "--lrs=$LRS" "--seeds=$SEEDS" "--metric=$METRIC" "$@"
    cd "$ROOT"
    logs="${NEMO_MCPO_RESULTS:-$ROOT/results}/$NEMO_MCPO_JOB/logs" # Slurm does not create directories
    mkdir -p "$logs" || die "cannot create $logs. Fix: set NEMO_MCPO_RESULTS in slurm/site.env"
    words=(sbatch --parsable "--output=$logs/%x-%j.log" ${options[@]+"${options[@]}"})
    cache="$("${words[@]}" "$@" --stage=cache)" && cache="${cache%%;*}" && echo "cache: job $cache"
    runs="$("${words[@]}" --array="0-$((RUNS - 1))" --dependency="afterok:$cache" --kill-on-invalid-dep=yes "$@" --stage=run)"
    runs="${runs%%;*}" && echo "$RUNS runs: array $runs"
    table="$("${words[@]}" --nodes=1 --gres=none --time=10 --dependency="afterany:$runs" "$@" --stage=table)"
    echo "table: job ${table%%;*}"
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

sweep_table() {
    TASKS_PER_NODE=1
    nemo_mcpo_begin
    nemo_mcpo_step 0 1 1 "$PYTHON" "$ROOT/scripts/collect_sweep.py" "$RUN_DIR" --metric "$METRIC"
    [ "$CODE" -ne 0 ] || sed -n 's/^0: //p' "$LOG"
}

set -- ${KEYS[@]+"${KEYS[@]}"}
case "$STAGE $*" in
    *--dry-run*)
        say "1. the cache" && sweep_cache "$@"
        say "2. $RUNS runs: learning rates $LRS, seeds $SEEDS; the first:" && sweep_run 0 "$@"
        ;;
    cache*) sweep_cache "$@" ;;
    run*)
        ARRAY_TASK="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
        sweep_run "$SLURM_ARRAY_TASK_ID" "$@"
        ;;
    table*) sweep_table ;;
    *)
        case "$0" in */slurm_script) die "the sweep submits its own jobs. Fix: run bash slurm/sweep.sh instead of sbatch" ;; esac
        sweep_submit "$@"
        exit 0
        ;;
esac
nemo_mcpo_end
