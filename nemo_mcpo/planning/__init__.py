# SPDX-License-Identifier: Apache-2.0
"""Estimates, before a run is queued, of what it needs: parameters, memory per GPU, time, checkpoints."""
