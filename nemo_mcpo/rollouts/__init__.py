# SPDX-License-Identifier: Apache-2.0
"""Answers sampled from the policy itself, and a store that never loses a sample or requests one twice."""
