# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a policy: answers to a set of prompts, rates decided by a rule or a judge, and their intervals."""
