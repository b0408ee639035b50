# SPDX-License-Identifier: Apache-2.0
"""Crash-safe storage: files and directories stay complete if the process is killed, and other settings are refused."""
