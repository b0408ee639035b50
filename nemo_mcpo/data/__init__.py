# SPDX-License-Identifier: Apache-2.0
"""From a file of prompts with ranked responses to a memory-mapped dataset of token ids, and the order of prompts."""
