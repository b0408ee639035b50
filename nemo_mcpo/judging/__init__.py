# SPDX-License-Identifier: Apache-2.0
"""Judges: which of a prompt's answers is the best one."""
