# SPDX-License-Identifier: Apache-2.0
"""The policy: a megatron-core GPT that returns one summed log-prob per completion."""
