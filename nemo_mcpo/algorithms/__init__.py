# SPDX-License-Identifier: Apache-2.0
"""Trainers: score, draw, train; checkpoints, metrics and progress around it."""
