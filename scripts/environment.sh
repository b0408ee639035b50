# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Defines nemo_mcpo_environment, which creates the repository's .venv if needed and puts it first on PATH.
#
#   source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" && nemo_mcpo_environment
#
# A second call is fast. An interrupted call leaves no stamp, so the next one starts over. .venv is rebuilt when
# requirements/cpu.lock changes or the repository moves. OMP_NUM_THREADS is kept if set, else it is one thread per core.

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

# What a finished environment was made from: the repository's path, which scripts in .venv/bin contain, and every version.
nemo_mcpo_stamp() { printf '%s\n' "$NEMO_MCPO_ROOT" && cat "$NEMO_MCPO_ROOT/requirements/cpu.lock"; }

nemo_mcpo_is_ready() { [ -x "$1/bin/python" ] && nemo_mcpo_stamp | cmp -s - "$1/nemo_mcpo.stamp"; }

# Two commands must not build at the same time: the second waits for the first (if the system has flock).
nemo_mcpo_build() {
    (
        if command -v flock >/dev/null && ! flock --nonblock 9; then
            nemo_mcpo_say "another command is creating $1; waiting for it"
            flock 9
        fi
        nemo_mcpo_is_ready "$1" || nemo_mcpo_install "$1"
    ) 9<"$NEMO_MCPO_ROOT/requirements/cpu.lock"
}

nemo_mcpo_install() {
    local venv="$1" started=$SECONDS
    nemo_mcpo_fresh_venv "$venv" || return 1
    nemo_mcpo_say "installing about 160 pinned packages into $venv (once; 2.3 GB, a few minutes)"
    if ! nemo_mcpo_fill "$venv"; then
        nemo_mcpo_say "installation failed: see above, or pip's log in $venv/install.log." \
            "Fix: make sure that the package index is reachable and 5 GB of disk are free, and run this again."
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

# Start from an empty environment, since a killed pip leaves partial packages that it later takes for complete ones. An
# environment created by somebody else (without our mark) is used as it is and never emptied.
nemo_mcpo_fresh_venv() {
    local python
    rm -f "$1/nemo_mcpo.stamp"
    if [ -x "$1/bin/python" ] && ! [ -e "$1/nemo_mcpo.mine" ]; then
        nemo_mcpo_suits "$1/bin/python" && return 0
        nemo_mcpo_say "$1 exists, but its Python is not a working 3.11. Fix: remove or rename it."
        return 1
    fi
    python="$(nemo_mcpo_python)" || return 1
    nemo_mcpo_say "creating $1 with $python"
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

# The first Python 3.11 that can create an environment (a version manager's shim, or one without venv, may not).
nemo_mcpo_python() {
    local candidate
    for candidate in "${NEMO_MCPO_PYTHON:-}" python3.11 python3 python /usr/bin/python3.11 /usr/local/bin/python3.11; do
        if [ -n "$candidate" ] && nemo_mcpo_suits "$candidate"; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    nemo_mcpo_say "no Python 3.11 with venv on PATH (the pinned packages need 3.11)." \
        "Fix: install it (Debian and Ubuntu: apt-get install python3.11-venv), or set NEMO_MCPO_PYTHON=/path/to/python3.11"
    return 1
}

# pip, matplotlib and Hugging Face keep caches in the home directory; if it is not writable, they use the repository.
nemo_mcpo_writable_home() {
    local cache="${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}" own="$NEMO_MCPO_ROOT/.cache"
    if ! { mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null; then
        nemo_mcpo_say "$cache is not writable; caches go to $own"
        mkdir -p "$own" || return 1
        export XDG_CACHE_HOME="$own" XDG_CONFIG_HOME="$own/config" XDG_DATA_HOME="$own/data"
    fi
}

# Cores that this process may use: its affinity, or a container's limit if that is lower.
nemo_mcpo_cores() {
    local cores quota period
    cores="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
    if [ -r /sys/fs/cgroup/cpu.max ] && read -r quota period </sys/fs/cgroup/cpu.max && [ "$quota" != max ]; then
        local limit=$(((quota + period - 1) / period))
        cores=$((limit < cores ? limit : cores))
    fi
    printf '%s\n' "$cores"
}
