# SPDX-License-Identifier: Apache-2.0
"""Hugging Face model directories in and out: configuration, weights, tokenizer files, and tiny models for trials."""
