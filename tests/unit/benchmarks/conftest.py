# SPDX-License-Identifier: Apache-2.0
"""What the tests of benchmarks share: one process, and a small llama on disk."""

from tests.unit.models.conftest import llama_directory, one_process

__all__ = ["llama_directory", "one_process"]
