# SPDX-License-Identifier: Apache-2.0
"""FlashAttention is used only if its causal masks are aligned at the ends."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util

import pytest
import torch

from nemo_mcpo.trees.backends.flash_attn import reason_unavailable


@pytest.mark.parametrize(("version", "runs"), [("2.0.9", False), ("2.1.0", True), ("2.8.3", True)])
def test_old_versions_are_refused(monkeypatch, version, runs):
    spec = importlib.machinery.ModuleSpec("flash_attn", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "flash_attn" else None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    reason = reason_unavailable(torch.device("cuda"), torch.bfloat16)
    assert reason is None if runs else f"flash_attn {version}" in str(reason)
