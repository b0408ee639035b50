# SPDX-License-Identifier: Apache-2.0
"""Answers that the policy itself writes, and a store that never loses one or asks for one twice."""
