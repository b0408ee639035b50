# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Shared by the job scripts: nemo_mcpo_begin reads the site file and checks the job, nemo_mcpo_train and nemo_mcpo_online
# run the processes, nemo_mcpo_end decides between done, failed, and requeue.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
STOP_CODE=75 # stopped early with everything saved
STOP_ASKED=false STEP='' CODE=0
RUN_NAME='' ARRAY_TASK='' # set by jobs with several runs: the run's directory below the job's, and its array task

say() { printf '[%s +%d s] %s\n' "$NEMO_MCPO_JOB" "$SECONDS" "$*" >&2; }
die() { say "error: $*" && exit 2; }

# --- before the first rank starts -----------------------------------------------------------------------------------------

nemo_mcpo_begin() { # [--dry-run] Hydra overrides
    DRY_RUN=false OVERRIDES=()
    for word in "$@"; do
        case "$word" in
            --dry-run) DRY_RUN=true ;;
            *=*) OVERRIDES+=("$word") ;;
            *) die "not an override: $word. Fix: use key=value, or --dry-run" ;;
        esac
    done
    local site="${NEMO_MCPO_SITE:-$ROOT/slurm/site.env}"
    # shellcheck source=slurm/site.env.example
    [ ! -f "$site" ] || source "$site"
    local results="${NEMO_MCPO_RESULTS:-$ROOT/results}"
    RUN_DIR="$results/${SLURM_JOB_NAME:-$NEMO_MCPO_JOB}${RUN_NAME:+/$RUN_NAME}"
    export NEMO_MCPO_CACHE="${NEMO_MCPO_CACHE:-$results/cache}"
    nemo_mcpo_job
    # In a heterogeneous job, the first group trains; the second one generates and judges.
    NODES="${SLURM_JOB_NUM_NODES_HET_GROUP_0:-${SLURM_JOB_NUM_NODES:-1}}"
    NODELIST="${SLURM_JOB_NODELIST_HET_GROUP_0:-${SLURM_JOB_NODELIST:-}}"
    TASKS_PER_NODE="${TASKS_PER_NODE:-$(nemo_mcpo_gpus)}"
    [ "$TASKS_PER_NODE" -gt 0 ] || die "this node has no GPUs. Fix: choose another partition, or set TASKS_PER_NODE to use CPUs"
    CONTAINER_MOUNTS="${CONTAINER_MOUNTS:-}"
    nemo_mcpo_containers
    say "run $RUN_DIR, training on $NODES x $TASKS_PER_NODE processes, cache $NEMO_MCPO_CACHE"
    $DRY_RUN && return
    [ -n "${SLURM_JOB_ID:-}" ] || die "not a Slurm job. Fix: submit it by sbatch $0, or add --dry-run"
    trap nemo_mcpo_stop USR1 TERM
    mkdir -p "$RUN_DIR/logs" "$NEMO_MCPO_CACHE" || die "cannot create $RUN_DIR or $NEMO_MCPO_CACHE. Fix: set NEMO_MCPO_RESULTS in slurm/site.env"
    NEMO_MCPO_JOB_START="$(date +%s)" && export NEMO_MCPO_JOB_START
    nemo_mcpo_canary
    nemo_mcpo_rendezvous
    say "job $SLURM_JOB_ID, start $((RESTART + 1)), on $NODELIST; log $LOG"
}

# Facts from Slurm about this job, since the environment may be inherited from the job that submitted this one.
nemo_mcpo_job() {
    JOB="${ARRAY_TASK:-${SLURM_JOB_ID:-}}" RESTART=0
    if [ -n "$JOB" ]; then
        RESTART="$(scontrol show job -o "$JOB" 2>/dev/null | sed -n 's/.* Restarts=\([0-9]*\) .*/\1/p' | head -n 1 || true)"
        RESTART="${RESTART:-${SLURM_RESTART_COUNT:-0}}"
        [ "${SLURM_JOB_ID_HET_GROUP_0:-}" = "$SLURM_JOB_ID" ] ||
            unset SLURM_HET_SIZE SLURM_JOB_NUM_NODES_HET_GROUP_0 SLURM_JOB_NODELIST_HET_GROUP_{0,1}
    fi
    LOG="$RUN_DIR/logs/${SLURM_JOB_ID:-dry}-$RESTART.log"
    export NEMO_MCPO_FAILURE="${LOG%.log}.failed" # written by a rank that fails
}

nemo_mcpo_stop() {
    say 'stop requested; the ranks save and exit'
    STOP_ASKED=true
    [ -z "$STEP" ] || nemo_mcpo_pass_on "$STEP" &
}

nemo_mcpo_pass_on() { # repeatedly: srun drops a signal that arrives while it launches the ranks
    trap - USR1 TERM
    for _ in 1 2 3 4 5 6; do kill -USR1 "$1" 2>/dev/null && sleep 5 || return 0; done
}

nemo_mcpo_gpus() { # GPUs per node
    local found="${SLURM_GPUS_ON_NODE:-}"
    [ -n "$found" ] || found="$(sinfo -h -o %G 2>/dev/null | sed -n 's/.*gpu:\([^:,(]*:\)*\([0-9][0-9]*\).*/\2/p' | sort -n | tail -n 1)"
    [ -n "$found" ] || ! $DRY_RUN || { say "no Slurm here to ask for the GPUs per node; assuming 8" && found=8; }
    echo "${found:-0}"
}

# Sets CONTAINER (options for srun) and INSIDE (words before the program). SERVER_CONTAINER and SERVER_INSIDE are the same
# for servers with their own image; the overrides in SERVER_WORDS make servers use it.
nemo_mcpo_containers() {
    CONTAINER=() INSIDE=() SERVER_CONTAINER=() SERVER_INSIDE=() SERVER_WORDS=()
    if [ -z "${CONTAINER_IMAGE:-}" ]; then
        [ -n "${PYTHON:-}" ] || { [ -x "$ROOT/.venv/bin/python" ] && PYTHON="$ROOT/.venv/bin/python"; }
    else
        nemo_mcpo_container CONTAINER_IMAGE
        CONTAINER=(${WORDS[@]+"${WORDS[@]}"}) INSIDE=(${BEFORE[@]+"${BEFORE[@]}"})
        # Without this option, the image's variables override the job's.
        [ ${#CONTAINER[@]} -eq 0 ] || ! srun --help 2>/dev/null | grep -e --container-env >/dev/null ||
            CONTAINER+=("--container-env=$(nemo_mcpo_exported)")
    fi
    PYTHON="${PYTHON:-python}"
    [ -n "${SERVER_IMAGE:-}" ] || return 0
    nemo_mcpo_container SERVER_IMAGE
    SERVER_CONTAINER=(${WORDS[@]+"${WORDS[@]}"}) SERVER_INSIDE=(${BEFORE[@]+"${BEFORE[@]}"})
    SERVER_WORDS=({rollouts,judge}".server.prefix=[$ROOT/slurm/server_step.sh]")
}

nemo_mcpo_container() { # name of the variable with the image; sets WORDS for srun, or words BEFORE the program
    local image="${!1}" mount runtime
    local mounts="$ROOT:$ROOT,${RUN_DIR%/*}:${RUN_DIR%/*},$NEMO_MCPO_CACHE:$NEMO_MCPO_CACHE${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}"
    for mount in ${CONTAINER_MOUNTS//,/ }; do
        [ -e "${mount%%:*}" ] || die "mount does not exist: ${mount%%:*}. Fix: correct CONTAINER_MOUNTS in slurm/site.env"
    done
    WORDS=() BEFORE=()
    if srun --help 2>/dev/null | grep -e --container-image >/dev/null; then
        WORDS=("--container-image=$image" "--container-mounts=$mounts" "--container-workdir=$ROOT")
    elif runtime="$(command -v apptainer || command -v singularity)"; then
        BEFORE=("$runtime" exec --nv --bind "$mounts" --pwd "$ROOT" "$image")
    else
        die "no runtime for $1=$image (neither pyxis nor apptainer). Fix: install one of them, or unset $1"
    fi
}

nemo_mcpo_exported() { # names of the job's variables that ranks need
    local name names=PYTHONPATH,MASTER_ADDR,MASTER_PORT
    for name in ${!NEMO_MCPO_@} ${!NCCL_@} ${!GLOO_@} ${!TORCH_@} ${!HF_@} ${!OMP_@}; do names="$names,$name"; done
    echo "$names"
}

nemo_mcpo_canary() { # check that every node sees a file written here
    local file="$RUN_DIR/.canary-$SLURM_JOB_ID" token="$SLURM_JOB_ID-$RANDOM"
    echo "$token" >"$file"
    # shellcheck disable=SC2016  # expands on the node
    srun --input=none --export=ALL ${SLURM_HET_SIZE:+--het-group=0} --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 --gres=none --overlap \
        bash -c '[ "$(cat "$0" 2>/dev/null)" = "$1" ] || { echo "$(hostname) does not see $0" >&2; exit 1; }' "$file" "$token" ||
        die "$RUN_DIR is not shared by all nodes. Fix: set NEMO_MCPO_RESULTS to a directory on a shared file system"
    rm -f "$file"
}

nemo_mcpo_rendezvous() {
    local first
    first="$(scontrol show hostnames "$NODELIST" | head -n 1)"
    # The node's name may not resolve, but Slurm knows its address.
    getent hosts "$first" >/dev/null ||
        first="$(scontrol show node -o "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')"
    export MASTER_ADDR="$first" MASTER_PORT="$((15000 + (SLURM_JOB_ID * 7 + RESTART) % 15000))"
}

# --- the processes ----------------------------------------------------------------------------------------------------------

nemo_mcpo_train() { # config name, overrides of the job
    nemo_mcpo_words examples/train_gpt_mcpo.py "$@"
    nemo_mcpo_step 0 "$NODES" "$TASKS_PER_NODE" "${WORDS[@]}"
}

# config name, overrides of the job. First the program checks, on the servers' node, what they need, so that mistakes show
# up at once, and lists the unfinished stages and how each one starts.
nemo_mcpo_online() {
    local config="$1" listing="${LOG%.log}.stages" servers="${SLURM_JOB_NODELIST_HET_GROUP_1:-$NODELIST}" && shift
    local stages segment segments launch stage nodes
    nemo_mcpo_words examples/train_gpt_onmcpo.py "$config" ${SEGMENTS:+"onmcpo.segments=$SEGMENTS"} ${SERVER_WORDS[@]+"${SERVER_WORDS[@]}"} "$@"
    ! $DRY_RUN || stages="$(nemo_mcpo_check_here)" || exit $?
    say "check${servers:+ on $servers}"
    nemo_mcpo_serving 1 "${WORDS[@]}" --dry-run --list-stages "$listing"
    [ "$CODE" -eq 0 ] || return 0
    $DRY_RUN || stages="$(cat "$listing")"
    [ -n "$stages" ] || return 0
    while read -r -u 3 segment segments launch stage; do
        ! $DRY_RUN || [ "$segment" = "${stages%% *}" ] || return 0 # other segments differ only by number
        case "$launch" in servers) nodes="$servers" ;; *) nodes="$NODELIST" ;; esac
        say "segment $((segment + 1)) of $segments: $stage${nodes:+ on $nodes}"
        set -- "${WORDS[@]}" --stage "$stage" --segment "$segment"
        case "$launch" in
            one) nemo_mcpo_step 0 1 1 "$@" ;;
            all) nemo_mcpo_step 0 "$NODES" "$TASKS_PER_NODE" "$@" ;;
            servers) nemo_mcpo_serving 1 "$@" ;; # may use all GPUs of its node
        esac
        [ "$CODE" -eq 0 ] || return 0
    done 3<<<"$stages"
}

nemo_mcpo_words() { # program, config name, overrides of the job; the user's overrides come last and take precedence
    local program="$1" config="$2" && shift 2
    WORDS=("$PYTHON" "$ROOT/$program" --config-name "$config" "exp_manager.explicit_log_dir=$RUN_DIR")
    [ -z "${DATA:-}" ] || WORDS+=("model.data.train=$DATA")
    [ -z "${MODEL:-}" ] || WORDS+=("pretrained_checkpoint.restore_from_path=$MODEL")
    WORDS+=("trainer.num_nodes=$NODES" "$@" ${OVERRIDES[@]+"${OVERRIDES[@]}"})
}

# What a plan can check about servers without Slurm or an image: models and sizes, if a Python here has the packages for
# it. Prints the unfinished stages.
nemo_mcpo_check_here() {
    local python="${PYTHON:-python}" needed='import sys, importlib.util as u
sys.exit(None in map(u.find_spec, ("hydra", "pydantic", "transformers")))'
    [ -z "${CONTAINER_IMAGE:-}" ] || [ ! -x "$ROOT/.venv/bin/python" ] || python="$ROOT/.venv/bin/python"
    if ! PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$python" -c "$needed" 2>/dev/null; then
        say "no Python here has this project's packages; servers are checked and stages listed when the job starts"
        return 0
    fi
    say 'checking what can be checked on this machine'
    PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$python" "${WORDS[@]:1}" --dry-run --gpus "$TASKS_PER_NODE" \
        --list-stages /dev/fd/3 3>&1 >&2
}

# group of a heterogeneous job, command: a step of one process that starts servers, possibly as steps of their own.
nemo_mcpo_serving() {
    local group="$1" watcher && shift
    if $DRY_RUN; then
        nemo_mcpo_step "$group" 1 1 "$@"
        return
    fi
    export NEMO_MCPO_SERVER_STEPS="${LOG%.log}.servers"
    rm -rf "$NEMO_MCPO_SERVER_STEPS" && mkdir -m 700 "$NEMO_MCPO_SERVER_STEPS"
    nemo_mcpo_serve "$group" &
    watcher=$!
    nemo_mcpo_step "$group" 1 1 "$@"
    kill -TERM "$watcher" # also ends leftover server steps, whose GPUs the next stage needs
    while kill -0 "$watcher" 2>/dev/null; do wait "$watcher" || true; done
    rm -rf "$NEMO_MCPO_SERVER_STEPS"
}

# group: start a step for each request from slurm/server_step.sh, and end it on request.
nemo_mcpo_serve() {
    local file stopped=false
    declare -A started=()
    trap 'stopped=true' TERM
    trap '' USR1
    until $stopped; do
        for file in "$NEMO_MCPO_SERVER_STEPS"/*.request "$NEMO_MCPO_SERVER_STEPS"/*.stop; do
            case "$file" in
                *'*'*) continue ;; # the pattern matched nothing
                *.stop)
                    [ -z "${started[${file%.stop}]:-}" ] || kill -TERM "${started[${file%.stop}]}" 2>/dev/null || true
                    rm -f "$file"
                    ;;
                *.request)
                    mv "$file" "${file%.request}.taken"
                    nemo_mcpo_server_step "$1" "${file%.request}" &
                    started[${file%.request}]=$!
                    ;;
            esac
        done
        sleep 0.5 &
        wait $! || true
    done
    [ ${#started[@]} -eq 0 ] || kill -TERM "${started[@]}" 2>/dev/null || true
    wait || true
}

# group, request file without its suffix: one server. It gets its caller's variables and no other variables of the job.
nemo_mcpo_server_step() {
    local NODE='' LOG='' DEVICES='' NAMES='' OPTIONS=() WORDS=() server code=0 ended=false
    # shellcheck source=/dev/null
    source "$2.taken"
    [ -z "$DEVICES" ] || WORDS=(env "CUDA_VISIBLE_DEVICES=$DEVICES" "${WORDS[@]}") # instead of the GPUs that Slurm gives the step
    trap 'ended=true; kill -TERM "$server" 2>/dev/null' TERM
    srun --input=none --overlap --kill-on-bad-exit=1 --mpi="${SRUN_MPI:-none}" --cpu-bind=none --export="${NAMES:-NONE}" \
        ${SLURM_HET_SIZE:+"--het-group=$1"} --nodes=1 --ntasks=1 ${NODE:+"--nodelist=$NODE"} --output="$LOG" --open-mode=append \
        ${SERVER_CONTAINER[@]+"${SERVER_CONTAINER[@]}"} ${OPTIONS[@]+"${OPTIONS[@]}"} ${SERVER_INSIDE[@]+"${SERVER_INSIDE[@]}"} \
        "${WORDS[@]}" >>"$LOG" 2>&1 &
    server=$!
    while kill -0 "$server" 2>/dev/null; do wait "$server" || true; done
    wait "$server" || code=$?
    ! $ended || say "stopped server step ${2##*/}"
    echo "$code" >"$2.new" && mv "$2.new" "$2.code"
}

# group of a heterogeneous job, nodes, tasks per node, command: one srun; sets CODE to its exit code. --wait is used instead
# of --kill-on-bad-exit, because the first rank that exits with 75 must not kill the others, which still save, while ranks
# that wait for a dead one must end soon.
nemo_mcpo_step() {
    local group="$1" nodes="$2" tasks="$3" && shift 3
    local cpus="SLURM_JOB_CPUS_PER_NODE${SLURM_HET_SIZE:+_HET_GROUP_$group}" # such as 64 or 64(x2)
    cpus="${!cpus:-$tasks}" && cpus="${cpus%%[!0-9]*}"
    local step=(srun --input=none --export=ALL --kill-on-bad-exit=0 --wait="${WAIT_SECONDS:-30}" --label --mpi="${SRUN_MPI:-none}"
        ${SLURM_HET_SIZE:+"--het-group=$group"} --nodes="$nodes" --ntasks="$((nodes * tasks))" --ntasks-per-node="$tasks"
        --cpus-per-task="$((cpus < tasks ? 1 : cpus / tasks))"
        --output="$LOG" --open-mode=append ${CONTAINER[@]+"${CONTAINER[@]}"} ${INSIDE[@]+"${INSIDE[@]}"} "$@")
    if $DRY_RUN; then
        printf '%q ' "${step[@]}" && echo
        return
    fi
    if $STOP_ASKED; then
        CODE=$STOP_CODE
        return
    fi
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
    "${step[@]}" &
    STEP=$!
    ! $STOP_ASKED || nemo_mcpo_pass_on "$STEP" & # the request came while the step was starting
    while kill -0 "$STEP" 2>/dev/null; do wait "$STEP" || true; done # a signal interrupts wait
    wait "$STEP" || CODE=$?
    STEP=''
    [ "$CODE" -le 128 ] || nemo_mcpo_explain
}

# The exit code is above 128 if a rank was killed, but also if srun killed ranks that waited for one that had failed.
nemo_mcpo_explain() {
    if [ -e "$NEMO_MCPO_FAILURE" ]; then
        CODE=1
    elif $STOP_ASKED; then # the ranks were not listening for signals yet
        CODE=$STOP_CODE
    fi
}

# --- after the last rank ended ------------------------------------------------------------------------------------------------

nemo_mcpo_end() {
    $DRY_RUN && exit 0
    [ "$CODE" -ne 0 ] || { say "done" && exit 0; }
    if [ "$CODE" -ne "$STOP_CODE" ] && [ "$CODE" -le 128 ]; then
        say "failed with code $CODE; the end of $LOG:"
        tail -n 30 "$LOG" >&2 || true
        exit "$CODE"
    fi
    # 75: everything is saved. Above 128: a rank was killed, and the run resumes from its last checkpoint.
    if [ "$CODE" -ne "$STOP_CODE" ]; then
        say "a rank was killed (code $CODE); the end of $LOG:"
        tail -n 30 "$LOG" >&2 || true
        nemo_mcpo_progressed || { say "no progress between two kills; giving up" && exit "$CODE"; }
    fi
    if [ "$RESTART" -ge "${MAX_RESTARTS:-20}" ]; then
        say "started $((RESTART + 1)) times (MAX_RESTARTS=${MAX_RESTARTS:-20}); giving up. Fix: submit the same job to continue"
        exit "$CODE"
    fi
    nemo_mcpo_requeue
}

nemo_mcpo_requeue() {
    local attempt
    trap - USR1 TERM # from here on, Slurm's own SIGTERM must end this script
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        case "$(squeue -h -j "$JOB" -o %T 2>/dev/null)" in
            COMPLETING | CANCELLED) say "cancelled; not requeuing" && exit "$CODE" ;;
        esac
        say "requeuing"
        ! scontrol requeue "$JOB" || { sleep 600 && exit "$CODE"; } # Slurm ends this script
        say "attempt $attempt failed; the controller may be down" && sleep 30
    done
    exit "$CODE"
}

nemo_mcpo_progressed() { # whether anything was saved since a rank of this job was last killed
    local note="$RUN_DIR/logs/$SLURM_JOB_ID.killed" saved
    saved="$(find "$RUN_DIR" "$NEMO_MCPO_CACHE" \( -path '*/checkpoints/*' -o -path '*/segments/*' -o -path '*/answers/*' \
        -o -path '*/reference/*' -o -path '*/verdicts/*' \) ! -path '*.incomplete/*' ! -path '*/logs/*' \
        -type f -printf '%p %s\n' | sort | cksum)"
    [ ! -f "$note" ] || [ "$saved" != "$(cat "$note")" ] || return 1
    echo "$saved" >"$note"
}
