# SPDX-License-Identifier: Apache-2.0
"""Judges, which find the best of a prompt's answers."""
