# SPDX-License-Identifier: Apache-2.0
"""What a run will need, before it is queued: parameters, memory per GPU, time, checkpoints."""
