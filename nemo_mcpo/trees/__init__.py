# SPDX-License-Identifier: Apache-2.0
"""Prompt trees: packing them into rows, attention that respects them, rotary embedding by position id."""
