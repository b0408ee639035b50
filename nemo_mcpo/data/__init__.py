# SPDX-License-Identifier: Apache-2.0
"""From a file of prompts with ranked answers to a memory-mapped dataset of token ids, and the order of its prompts."""
