# SPDX-License-Identifier: Apache-2.0
"""What a policy can do: answers to a set of prompts, rates that a rule checks, and how sure those rates are."""
