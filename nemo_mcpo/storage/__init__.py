# SPDX-License-Identifier: Apache-2.0
"""Crash-safe storage: files stay complete if a process is killed; directories made with other settings are refused."""
