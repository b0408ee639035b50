# SPDX-License-Identifier: Apache-2.0
"""Prompt trees: packed into rows, with attention that respects them and rotary embedding by position id."""
