# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of benchmarks: one process, and a small Llama on disk."""

from tests.unit.models.conftest import llama_directory, one_process

__all__ = ["llama_directory", "one_process"]
