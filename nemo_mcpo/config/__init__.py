# SPDX-License-Identifier: Apache-2.0
"""The configuration: the type and limits of every key, and the combinations that are refused.

Checking imports neither torch nor megatron, so a wrong key is reported within a second, before anything is built.
"""

from nemo_mcpo.config.online import Judge, OnlineRunConfig, Rollouts, Server
from nemo_mcpo.config.parsing import parse_config
from nemo_mcpo.config.rules import check_architecture
from nemo_mcpo.config.schema import ExpManager, Model, Optim, RunConfig

__all__ = [
    "ExpManager",
    "Judge",
    "Model",
    "OnlineRunConfig",
    "Optim",
    "Rollouts",
    "RunConfig",
    "Server",
    "check_architecture",
    "parse_config",
]
