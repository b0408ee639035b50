# SPDX-License-Identifier: Apache-2.0
"""The environment of a server that we start: its GPUs, no variables of MPI, Slurm or torchrun, and no secrets.

Variables left by a parallel launcher make TensorRT-LLM hang. Secrets are variables with a secret-like name, or with a
password in a URL; ``server.environment`` lists those that a server needs nevertheless.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from nemo_mcpo.config import Server
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.accelerator import count_gpus
from nemo_mcpo.rollouts.launchers import gpus_of, launcher_of

_LAUNCHED = re.compile(
    # The list of TensorRT-LLM's own trtllm-llmapi-launch, then torchrun's.
    r"^(OMPI|PMIX|PMI|SLURM|MPI|UCX|I_MPI|HYDRA|KMP|MPICH|MV2|CRAY|TORCHELASTIC)_"
    r"|^(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)$|^MASTER_(ADDR|PORT)$"
)
_SECRET_NAME = re.compile(
    r"(^|_)(KEYS?|API_?KEY|APIKEY|TOKENS?|SECRETS?|PASS|PASSWD|PASSWORD|PASSPHRASE|CREDENTIALS?|AUTH)(_|$)"
    r"|^(AWS|AZURE|GOOGLE|GCP|WANDB)_|PASSWORD",
    re.IGNORECASE,
)
_PASSWORD_IN_URL = re.compile(r"://[^/\s@]*:[^/\s@]+@")
STEP = "server_step.sh"
"""Script in ``slurm/`` that, as ``server.prefix``, runs a server as its own Slurm step."""


def server_environment(settings: Server, replica: int, section: str = "server") -> dict[str, str]:
    """The environment of one of several replicas, each on its own GPUs.

    Raises:
        ConfigError: too few GPUs, or a variable in ``environment`` is not set.
    """
    kept = {name: text for name, text in os.environ.items() if not (_LAUNCHED.match(name) or is_secret(name, text))}
    return kept | passed_on(settings, section) | _devices(settings, replica, section)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks like a secret.

    >>> is_secret("HF_TOKEN", "hf_1"), is_secret("TOKENIZERS_PARALLELISM", "false")
    (True, False)
    """
    return bool(_SECRET_NAME.search(name) or _PASSWORD_IN_URL.search(value))


def passed_on(settings: Server, section: str) -> dict[str, str]:
    """The variables that ``server.environment`` lists."""
    missing = [name for name in settings.environment if name not in os.environ]
    if missing:
        raise ConfigError(
            "the variable is not set",
            where=f"{section}.environment",
            got=missing[0],
            fix=f"export {missing[0]}, or remove it from the list",
        )
    return {name: os.environ[name] for name in settings.environment}


def num_nodes(settings: Server) -> int:
    """Number of nodes of one server: ``--nodes`` of ``slurm/server_step.sh``, else 1."""
    if not settings.prefix or Path(settings.prefix[0]).name != STEP:
        return 1
    given = [word.removeprefix("--nodes=") for word in settings.prefix if word.startswith("--nodes=")]
    return int(given[-1]) if given and given[-1].isdigit() else 1


def check_gpus(settings: Server, number: int, section: str) -> None:
    """Raise ConfigError if ``number`` GPUs per node are too few; no GPUs are fine for a server that runs on CPUs."""
    size, needed = gpus_of(settings), gpus_of(settings) * settings.replicas
    if num_nodes(settings) > 1:
        # Such a server has its nodes to itself, and gets its GPUs from Slurm.
        needed, number = size, number * num_nodes(settings)
    if needed > number and (number or launcher_of(settings).needs_gpu):
        raise ConfigError(
            "too few GPUs for the servers",
            where=f"{section}.replicas",
            got=f"{settings.replicas} of {size} GPUs each",
            expected=f"at most {number} GPUs",
            fix=f"lower {section}.replicas or {section}.tensor_parallel_size",
        )


def _devices(settings: Server, replica: int, section: str) -> dict[str, str]:
    number = count_gpus()
    check_gpus(settings, number, section)
    if num_nodes(settings) > 1 or not number:
        return {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(one) for one in range(number)] if seen is None else seen.split(",")
    size = gpus_of(settings)
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[replica * size : (replica + 1) * size])}
