# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Source this, then call nemo_mcpo_environment: it makes the repository's .venv when needed and puts it first on PATH.
#
#   source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" && nemo_mcpo_environment
#
# A second call takes a moment. An interrupted call leaves no stamp, and the next one starts over. .venv is made again when
# requirements/cpu.lock changes or the repository moves. OMP_NUM_THREADS is kept when set, else one thread a core.

NEMO_MCPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

nemo_mcpo_say() { printf '[nemo_mcpo] %s\n' "$*" >&2; }

nemo_mcpo_environment() {
    local venv="$NEMO_MCPO_ROOT/.venv"
    nemo_mcpo_writable_home || return 1
    if ! nemo_mcpo_is_ready "$venv"; then
        nemo_mcpo_build "$venv" || return 1
    fi
    unset PYTHONHOME
    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nemo_mcpo_cores)}"
}

# What a finished environment was made from: the place (scripts in .venv/bin name it) and every pinned version.
nemo_mcpo_stamp() { printf '%s\n' "$NEMO_MCPO_ROOT" && cat "$NEMO_MCPO_ROOT/requirements/cpu.lock"; }

nemo_mcpo_is_ready() { [ -x "$1/bin/python" ] && nemo_mcpo_stamp | cmp -s - "$1/nemo_mcpo.stamp"; }

# Two commands started together must not build at once: the second waits for the first (where the system has flock).
nemo_mcpo_build() {
    (
        if command -v flock >/dev/null && ! flock --nonblock 9; then
            nemo_mcpo_say "another command is making $1; waiting for it"
            flock 9
        fi
        nemo_mcpo_is_ready "$1" || nemo_mcpo_install "$1"
    ) 9<"$NEMO_MCPO_ROOT/requirements/cpu.lock"
}

nemo_mcpo_install() {
    local venv="$1" started=$SECONDS
    nemo_mcpo_fresh_venv "$venv" || return 1
    nemo_mcpo_say "filling $venv: about 160 pinned packages, 2.3 GB on disk, a few minutes, once"
    if ! nemo_mcpo_fill "$venv"; then
        nemo_mcpo_say "the environment is not complete: the reason is above (pip's own account: $venv/install.log)." \
            "Fix: see that the package index can be reached and 5 GB of disk are free, and run this again."
        return 1
    fi
    nemo_mcpo_say "environment ready after $((SECONDS - started)) s"
}

nemo_mcpo_fill() {
    nemo_mcpo_pip "$1" -r "$NEMO_MCPO_ROOT/requirements/cpu.lock" \
        && nemo_mcpo_pip "$1" --no-deps --no-build-isolation --editable "$NEMO_MCPO_ROOT" \
        && nemo_mcpo_stamp >"$1/nemo_mcpo.partial" \
        && mv "$1/nemo_mcpo.partial" "$1/nemo_mcpo.stamp"
}

# An empty environment, since a killed pip leaves halves that it later takes for whole. One that somebody else made
# (it lacks our mark) is used as it is and never emptied.
nemo_mcpo_fresh_venv() {
    local python
    rm -f "$1/nemo_mcpo.stamp"
    if [ -x "$1/bin/python" ] && ! [ -e "$1/nemo_mcpo.mine" ]; then
        nemo_mcpo_suits "$1/bin/python" && return 0
        nemo_mcpo_say "$1 exists, and its Python is not a working 3.11. Fix: remove or rename it."
        return 1
    fi
    python="$(nemo_mcpo_python)" || return 1
    nemo_mcpo_say "making $1 with $python"
    mkdir -p "$1" && : >"$1/nemo_mcpo.mine" \
        && find "$1" -mindepth 1 ! -name nemo_mcpo.mine -delete \
        && "$python" -m venv "$1"
}

nemo_mcpo_pip() {
    local venv="$1" stage="${*: -1}"
    nemo_mcpo_say "pip install ${stage#"$NEMO_MCPO_ROOT"/}"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --progress-bar off \
        --log "$venv/install.log" "${@:2}"
}

nemo_mcpo_suits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

# The first Python 3.11 that can make an environment (a version manager's shim, or a system Python without venv, may not).
nemo_mcpo_python() {
    local candidate
    for candidate in "${NEMO_MCPO_PYTHON:-}" python3.11 python3 python /usr/bin/python3.11 /usr/local/bin/python3.11; do
        if [ -n "$candidate" ] && nemo_mcpo_suits "$candidate"; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    nemo_mcpo_say "no Python 3.11 with venv on PATH (the pinned packages are for 3.11)." \
        "Fix: install it (Debian and Ubuntu: apt-get install python3.11-venv), or name it: NEMO_MCPO_PYTHON=/path/to/python3.11"
    return 1
}

# pip, matplotlib and Hugging Face keep caches at home; where that cannot be written they get a folder in the repository.
nemo_mcpo_writable_home() {
    local cache="${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}" own="$NEMO_MCPO_ROOT/.cache"
    if ! { mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null; then
        nemo_mcpo_say "$cache cannot be written; caches go to $own"
        mkdir -p "$own" || return 1
        export XDG_CACHE_HOME="$own" XDG_CONFIG_HOME="$own/config" XDG_DATA_HOME="$own/data"
    fi
}

# Cores that this process may use: its affinity, less where a container's limit is lower.
nemo_mcpo_cores() {
    local cores quota period
    cores="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
    if [ -r /sys/fs/cgroup/cpu.max ] && read -r quota period </sys/fs/cgroup/cpu.max && [ "$quota" != max ]; then
        local limit=$(((quota + period - 1) / period))
        cores=$((limit < cores ? limit : cores))
    fi
    printf '%s\n' "$cores"
}
