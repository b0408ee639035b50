# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of a step's cost, against plain DPO, TRL and a count of the operations."""
