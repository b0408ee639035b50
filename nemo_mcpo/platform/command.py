# SPDX-License-Identifier: Apache-2.0
"""The frame of every command: exit codes, errors in one line, and configuration from Hydra's YAML and overrides.

Exit codes: 0 done; 1 failed; 2 bad usage or configuration; 75 stopped early by a signal with everything saved.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nemo_mcpo.errors import ConfigError, NemoMcpoError
from nemo_mcpo.platform.quiet import quiet_dependencies
from nemo_mcpo.platform.stopping import STOPPED_EARLY, StoppedEarly

_PATIENCE_SECONDS = 20.0
COLLECTIVES = os.path.join("torch", "distributed")
"""Part of the path of whatever waits for other ranks."""
BACKENDS = ("/gloo/", "NCCL")
"""In the messages of collectives that broke."""
FAILURE = "NEMO_MCPO_FAILURE"
"""Environment variable: a file that a rank leaves which ends with an error (``slurm/common.sh``)."""


class FailedElsewhere(BaseException):
    """Another rank failed and reports why; this one ends with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Call ``main(argv)`` and exit the process; a failure prints one line that says why before any traceback."""
    quiet_dependencies()
    try:
        main(sys.argv[1:] if argv is None else argv)
    except NemoMcpoError as error:
        _fail(f"error: {error}", error.exit_code)
    except FailedElsewhere as failure:
        _leave_after_rank_zero(failure.exit_code)
    except StoppedEarly as stopped:
        if own_rank() == "0":
            print(f"stopped early, everything is saved: {stopped}", file=sys.stderr, flush=True)
        _leave(STOPPED_EARLY)
    except KeyboardInterrupt:
        _fail("error: interrupted", 130)
    except Exception as error:
        message = f"error: {type(error).__name__}: {' '.join(str(error).split())}\n{traceback.format_exc()}"
        # In a collective it is another rank that failed or was killed; one that is waited for later leaves no frame.
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        by_itself = not any(COLLECTIVES in file for file in files) and not any(name in str(error) for name in BACKENDS)
        _fail(message, 1, by_itself=by_itself)
    sys.exit(0)


def _fail(message: str, code: int, *, by_itself: bool = True) -> None:
    """Report and leave."""
    rank = own_rank()
    if rank != "0" and code == ConfigError.exit_code:  # every rank finds the same mistake in the configuration
        _leave_after_rank_zero(code)
    print(f"[rank {rank}] {message}" if rank != "0" else message, file=sys.stderr, flush=True)
    if by_itself:
        mark_failure()
    _leave(code)


def mark_failure() -> None:
    """Tell the job that a rank failed by itself: where the others hang, srun kills them and returns their code."""
    if path := os.environ.get(FAILURE):
        with contextlib.suppress(OSError):
            Path(path).touch()


def _leave(code: int) -> None:
    """Exit; at once when there are other ranks: while they wait, an orderly shutdown can hang."""
    sys.stdout.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave_at_once(code)
    sys.exit(code)


def _leave_after_rank_zero(code: int) -> None:
    """The launcher ends everybody when the first one goes: let rank 0 report, and so end this wait, before."""
    time.sleep(_PATIENCE_SECONDS)
    _leave_at_once(code)


def _leave_at_once(code: int) -> None:
    """Exit without waiting for anybody. A checkpoint's writer process would live on and hold our output open."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def leave_on_sigterm() -> None:
    """End through every ``finally`` when asked to: what ends child processes stands there."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def own_rank() -> str:
    """This process's number among those of its launch; ``0`` without a launcher."""
    return os.environ.get("RANK", "0")


def world_size_from_environment() -> int:
    """Processes that the launcher (``torchrun``, ``srun``, or ``python`` alone) started.

    Raises:
        ConfigError: ``srun`` started several without saying where they meet.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if "WORLD_SIZE" not in os.environ and "SLURM_STEP_ID" in os.environ and tasks > 1:
        if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise ConfigError(
                "srun started several processes that do not know where to meet",
                where="MASTER_ADDR, MASTER_PORT",
                got="not set",
                expected="the first node's name and a free port",
                fix="export both before srun, or start one torchrun a node",
            )
        for name, slurm_name in (("RANK", "SLURM_PROCID"), ("LOCAL_RANK", "SLURM_LOCALID")):
            os.environ[name] = os.environ[slurm_name]
        os.environ["WORLD_SIZE"] = str(tasks)
    return int(os.environ.get("WORLD_SIZE", "1"))


def compose_config(argv: Sequence[str], *, config_dir: Path, config_name: str) -> dict[str, Any]:
    """The YAML with the overrides, as plain dictionaries; nothing is checked but that it can be composed.

    Args:
        argv: Hydra overrides, ``--config-path`` and ``--config-name``.
        config_dir, config_name: where to look when they are not given.

    Raises:
        ConfigError: a file that is not there, or an override that is wrong.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parser = argparse.ArgumentParser(description="Hydra overrides: key=value …; every key is in examples/conf.")
    parser.add_argument("--config-path", "-cp", type=Path, default=config_dir, help="directory of the YAML files")
    parser.add_argument("--config-name", "-cn", default=config_name, help="YAML file, without its ending")
    parser.add_argument("overrides", nargs="*", help="key=value")
    arguments = parser.parse_intermixed_args(list(argv))
    path = arguments.config_path if arguments.config_path.is_dir() else config_dir.parent / arguments.config_path
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(path.resolve()), version_base="1.3"):
            overrides = [_plain(item) for item in arguments.overrides]
            # A user's own directory can build on the product's files: defaults: [gpt_mcpo, _self_].
            overrides.append(f"hydra.searchpath=[file://{config_dir}]")
            raw = compose(arguments.config_name.removesuffix(".yaml"), overrides)
            container = OmegaConf.to_container(raw, resolve=True, throw_on_missing=False)
    except (HydraException, OmegaConfBaseException) as problem:
        raise ConfigError(
            "the configuration cannot be composed",
            where=f"{path}/{arguments.config_name}",
            got=" ".join(str(problem).split()),
            fix="check --config-path, --config-name and the overrides",
        ) from None
    return _without_missing(container)


def _without_missing(node: Any) -> Any:
    """Leave out mandatory values (``???``) that nobody set, so that the schema reports them as missing."""
    if isinstance(node, dict):
        return {key: _without_missing(value) for key, value in node.items() if value != "???"}
    return node


def _plain(override: str) -> str:
    """``a.b=1`` becomes ``++a.b=1``: Hydra's own complaint about an unknown key does not say what exists."""
    if "=" not in override:
        raise ConfigError(
            "not an override", where="command line", got=override, expected="key=value", fix="write key=value"
        )
    key = override.split("=")[0]
    is_group = "/" in key or "@" in key or key == "model"
    return override if override[0] in "+~" or is_group else f"++{override}"
