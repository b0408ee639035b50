# SPDX-License-Identifier: Apache-2.0
"""Import and export of Hugging Face model directories: configuration, weights, tokenizer; tiny models for trials."""
