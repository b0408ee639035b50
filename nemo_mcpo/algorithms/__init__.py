# SPDX-License-Identifier: Apache-2.0
"""Trainers: score, draw, train, with checkpoints, metrics and progress; and the stages of an online run."""
