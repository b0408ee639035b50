# SPDX-License-Identifier: Apache-2.0
"""MC-PO: preference optimization with hard negatives, on NeMo and megatron-core.

Importing this package loads nothing heavy; import the room you need, such as ``nemo_mcpo.objectives``.
"""

__version__ = "0.1.0"

ROOMS = (
    "records",
    "errors",
    "storage",
    "config",
    "variant",
    "platform",
    "data",
    "trees",
    "sampling",
    "objectives",
    "models",
    "planning",
    "rollouts",
    "judging",
    "algorithms",
    "evaluation",
)
"""In the order of the data flow: a room may import itself and every room before it."""
