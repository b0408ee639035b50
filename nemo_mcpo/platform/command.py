# SPDX-License-Identifier: Apache-2.0
"""What all commands share: exit codes, one-line errors, and configuration from Hydra's YAML and overrides.

Exit codes: 0 done; 1 failed; 2 bad usage or configuration; 75 stopped early by a signal with everything saved.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nemo_mcpo.errors import ConfigError, NemoMcpoError
from nemo_mcpo.platform.stopping import STOPPED_EARLY, StoppedEarly

_PATIENCE_SECONDS = 20.0
COLLECTIVES = os.path.join("torch", "distributed")
"""Part of the path of torch's files that wait for other ranks."""
BACKENDS = ("/gloo/", "NCCL")
"""Parts of the messages of failed collectives."""
FAILURE = "NEMO_MCPO_FAILURE"
"""Environment variable: the file that a failing rank creates (``slurm/common.sh``)."""
_CHATTY_LOGGERS = (
    "nv_one_logger",  # telemetry that is off
    "lightning.pytorch.utilities.rank_zero",  # accelerators that Lightning, which trains nothing here, would use
)
_KNOWN_WARNINGS = "Transformer Engine and Apex are not installed"  # ``doctor`` reports it, and what it means


class FailedElsewhere(BaseException):
    """Another rank failed and reports why; this rank exits with the same code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def quiet_dependencies() -> None:
    """Hide what dependencies log about themselves at every start, but no errors; call it before importing them."""
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=_KNOWN_WARNINGS)


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Call ``main(argv)`` and exit the process; if it fails, print one line with the reason before any traceback."""
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
        # A failed collective means that another rank failed or was killed. An asynchronous one leaves no stack frame,
        # only a message of its backend.
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        by_itself = not any(COLLECTIVES in file for file in files) and not any(name in str(error) for name in BACKENDS)
        _fail(message, 1, by_itself=by_itself)
    sys.exit(0)


def _fail(message: str, code: int, *, by_itself: bool = True) -> None:
    """Report the error and exit."""
    rank = own_rank()
    if rank != "0" and code == ConfigError.exit_code:  # every rank finds the same mistake
        _leave_after_rank_zero(code)
    print(f"[rank {rank}] {message}" if rank != "0" else message, file=sys.stderr, flush=True)
    if by_itself:
        mark_failure()
    _leave(code)


def mark_failure() -> None:
    """Tell the job that a rank failed by itself: if the others hang, srun kills them and returns their exit code."""
    if path := os.environ.get(FAILURE):
        with contextlib.suppress(OSError):
            Path(path).touch()


def _leave(code: int) -> None:
    """Exit; if there are other ranks, exit at once, since an orderly shutdown can hang while they wait."""
    sys.stdout.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave_at_once(code)
    sys.exit(code)


def _leave_after_rank_zero(code: int) -> None:
    """Exit after giving rank 0 time to report: the launcher kills all ranks when the first one exits."""
    time.sleep(_PATIENCE_SECONDS)
    _leave_at_once(code)


def _leave_at_once(code: int) -> None:
    """Exit without cleanup, after killing children: a checkpoint's writer would live on and keep our output open."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def leave_on_sigterm() -> None:
    """Make SIGTERM exit through all ``finally`` blocks, since those stop the child processes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def own_rank() -> str:
    """Return the rank of this process in its launch; ``0`` without a launcher."""
    return os.environ.get("RANK", "0")


def world_size_from_environment() -> int:
    """Return the number of processes that the launcher (``torchrun``, ``srun``, or ``python`` alone) started.

    For ``srun``, also set the variables that ``torchrun`` would set.

    Raises:
        ConfigError: ``srun`` started several processes without a rendezvous address.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if "WORLD_SIZE" not in os.environ and "SLURM_STEP_ID" in os.environ and tasks > 1:
        if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise ConfigError(
                "srun started several processes without a rendezvous address",
                where="MASTER_ADDR, MASTER_PORT",
                got="not set",
                expected="the first node's name and a free port",
                fix="export both before srun, or start one torchrun per node",
            )
        for name, slurm_name in (("RANK", "SLURM_PROCID"), ("LOCAL_RANK", "SLURM_LOCALID")):
            os.environ[name] = os.environ[slurm_name]
        os.environ["WORLD_SIZE"] = str(tasks)
    return int(os.environ.get("WORLD_SIZE", "1"))


def compose_config(argv: Sequence[str], *, config_dir: Path, config_name: str) -> dict[str, Any]:
    """Return the YAML with the overrides applied, as plain dictionaries; the values are not checked.

    Args:
        argv: Hydra overrides, ``--config-path`` and ``--config-name``.
        config_dir, config_name: used if these options are not given.

    Raises:
        ConfigError: a file is missing, or an override is malformed.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parser = argparse.ArgumentParser(description="Hydra overrides: key=value …; every key is in examples/conf.")
    parser.add_argument("--config-path", "-cp", type=Path, default=config_dir, help="directory of the YAML files")
    parser.add_argument("--config-name", "-cn", default=config_name, help="YAML file, without its extension")
    parser.add_argument("overrides", nargs="*", help="key=value")
    arguments = parser.parse_intermixed_args(list(argv))
    path = arguments.config_path if arguments.config_path.is_dir() else config_dir.parent / arguments.config_path
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(path.resolve()), version_base="1.3"):
            overrides = [_plain(item) for item in arguments.overrides]
            # Lets files in a user's own directory build on ours: defaults: [gpt_mcpo, _self_].
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
    """Drop mandatory values (``???``) that are not set, so that the schema reports them as missing."""
    if isinstance(node, dict):
        return {key: _without_missing(value) for key, value in node.items() if value != "???"}
    return node


def _plain(override: str) -> str:
    """Turn ``a.b=1`` into ``++a.b=1``, since Hydra's own error for an unknown key does not list the known ones."""
    if "=" not in override:
        raise ConfigError(
            "not an override",
            where="command line",
            got=override,
            expected="key=value",
            fix="write key=value, in quotes if the value has spaces",
        )
    key = override.split("=")[0]
    is_group = "/" in key or "@" in key or key == "model"
    return override if override[0] in "+~" or is_group else f"++{override}"
