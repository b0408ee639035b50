# SPDX-License-Identifier: Apache-2.0
"""Prompt trees: packing into rows, attention within a tree, and rotary embedding by position id."""
