# SPDX-License-Identifier: Apache-2.0
"""MC-PO: preference optimization with hard negatives, on NeMo and megatron-core.

Importing this package loads nothing heavy; import the room you need (``nemo_mcpo.objectives``, ``nemo_mcpo.models``, …).
"""

__version__ = "0.1.0"
