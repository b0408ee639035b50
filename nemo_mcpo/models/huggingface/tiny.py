# SPDX-License-Identifier: Apache-2.0
"""Small random models for trials: weights of a named size, a tokenizer trained on your data, a chat template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from nemo_mcpo.errors import ConfigError, DataError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.huggingface.checkpoint import check_replaceable
from nemo_mcpo.models.huggingface.config import fresh_config
from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.models.huggingface.generation_settings import neutral_settings
from nemo_mcpo.models.huggingface.texts import read_texts
from nemo_mcpo.models.huggingface.tokenizer_files import MODEL_INPUTS
from nemo_mcpo.storage.atomic import move_into_place, start_partial

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (PAD, BEGIN, END, *(f"<|{role}|>" for role in ROLES))

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _size(
    layers: int, hidden: int, heads: int, groups: int, ffn: int, vocab: int, max_positions: int = 4096, **more: Any
) -> ModelArchitecture:
    options: dict[str, Any] = {"norm_epsilon": 1e-5, "rope_theta": 10000.0} | more
    return ModelArchitecture(
        "llama", layers, hidden, ffn, heads, groups, hidden // heads, vocab, max_positions, **options
    )


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA_3_2 = {"rope_theta": 500000.0, "rope_scaling": LLAMA3_SCALING, "tied_embeddings": True}
LLAMA_3_1 = {"rope_theta": 500000.0, "rope_scaling": LLAMA3_SCALING | {"factor": 8.0}}

SIZES: dict[str, ModelArchitecture] = {
    "1m": _size(4, 128, 4, 2, 384, 1024),
    "3m": _size(4, 256, 4, 2, 576, 1024),
    "10m": _size(4, 384, 8, 4, 1088, 4096),
    "25m": _size(8, 512, 8, 4, 896, 8192),
    "100m": _size(12, 768, 12, 4, 2048, 16384),
    # Llama-3.2-1B and -3B, 8 of the 32 layers of Llama-3.1-8B, and all of them.
    "1b": _size(16, 2048, 32, 8, 8192, 128256, 131072, **LLAMA_3_2),
    "3b": _size(28, 3072, 24, 8, 8192, 128256, 131072, **LLAMA_3_2),
    "2.8b": _size(8, 4096, 32, 8, 14336, 128256, 131072, **LLAMA_3_1),
    "8b": _size(32, 4096, 32, 8, 14336, 128256, 131072, **LLAMA_3_1),
}
"""Layers are multiples of 4, heads of 4 and groups of 2: every size runs under TP2, PP2 and interleaved PP2."""
WHOLE_VOCABULARY = ("1b", "3b", "2.8b", "8b")
"""Sizes whose embedding has all rows, even if the data yields fewer tokens."""


def make_tiny_model(
    data: str | Path,
    directory: str | Path,
    size: str,
    seed: int,
    family: str = "llama",
    vocab_size: int | None = None,
    dtype: str = "float32",
) -> ModelArchitecture:
    """Write a complete Hugging Face directory; the same arguments give the same bytes.

    Args:
        data: file with the text to train the byte-level BPE on.
        directory: the result; an existing model is replaced.
        size, family: keys of ``SIZES`` and ``FAMILIES``.
        vocab_size: largest number of tokens, special ones included; by default that of the size.
        dtype: dtype of the weights on disk.
    """
    for name, value, known in (("--size", size, SIZES), ("--family", family, FAMILIES)):
        if value not in known:
            raise ConfigError("unknown name", where=name, got=value, expected=", ".join(known))
    directory = Path(directory).resolve()
    check_replaceable(directory)
    tokenizer = train_tokenizer(read_texts(data), vocab_size or SIZES[size].vocab_size)
    tokenizer.model_max_length = SIZES[size].max_positions
    if size not in WHOLE_VOCABULARY:
        vocab_size = len(tokenizer)
    architecture = replace(
        SIZES[size],
        family=family,
        vocab_size=vocab_size or SIZES[size].vocab_size,
        qkv_bias=FAMILIES[family].qkv_bias,
        qk_norm=FAMILIES[family].qk_norm,
        dtype=dtype,
    )
    partial = start_partial(directory)
    # Every version of transformers reads a template in tokenizer_config.json, but not one in a separate file.
    tokenizer.save_pretrained(partial, save_jinja_files=False)
    _save_random_weights(partial, architecture, tokenizer, seed)
    move_into_place(directory)
    return architecture


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with a chat template; digits are single tokens so that small models can do arithmetic."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fewest = len(alphabet) + len(SPECIAL_TOKENS)
    if vocab_size < fewest:
        raise ConfigError(
            "the vocabulary is too small", where="--vocab-size", got=vocab_size, expected=f"at least {fewest}"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() <= fewest:
        raise DataError(
            "no text to train a tokenizer on", where="--data", fix="give a file with at least a few kilobytes of text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        model_input_names=MODEL_INPUTS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _save_random_weights(
    directory: Path, architecture: ModelArchitecture, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    token_ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(**fresh_config(architecture) | token_ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(**neutral_settings(architecture.vocab_size), **token_ids)
    model.save_pretrained(directory, safe_serialization=True)
    for file in directory.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes them private, but a server may run as another user
