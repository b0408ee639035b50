# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.gpt import ParallelLayout, TreeGPTModel, build_gpt
from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.huggingface.export import export_model
from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.models.huggingface.weights import load_weights, named_parameters
from nemo_mcpo.records import PromptTree
from nemo_mcpo.trees.packing import PlacedTree, build_row
from tests.support.models import MODELS, save_model

pytestmark = pytest.mark.usefixtures("one_process")


def imported(directory: Path, dtype: torch.dtype = torch.float32) -> list[TreeGPTModel]:
    architecture = read_architecture(directory)
    chunks = build_gpt(architecture, ParallelLayout(dtype=dtype))
    for parameter in chunks[0].parameters():
        parameter.data.fill_(torch.nan)
    load_weights(directory, chunks, architecture)
    return chunks


def random_tree(vocab_size: int) -> PromptTree:
    generator = np.random.default_rng(3)
    prompt, *completions = (generator.integers(0, vocab_size, n).astype(np.int32) for n in (40, 17, 1, 60))
    return PromptTree(0, 0, prompt, tuple(completions))


@torch.no_grad()
def summed_log_probs(model: torch.nn.Module, tree: PromptTree) -> torch.Tensor:
    """transformers' log-probs, one sequence at a time."""
    sums = []
    for completion in tree.completions:
        tokens = torch.from_numpy(np.concatenate([tree.prompt_tokens, completion])).long()[None]
        logps = model(tokens[:, :-1]).logits.float().log_softmax(-1)
        logps = logps.gather(-1, tokens[:, 1:, None])[0, -len(completion) :, 0]
        sums.append(logps.double().sum())
    return torch.stack(sums).float()


@pytest.mark.parametrize("name", MODELS)
def test_log_probs_equal_transformers(tmp_path, name):
    model = save_model(tmp_path, name)
    tree = random_tree(300)
    batch = build_row([PlacedTree(tree, 0, (0, 1, 2))], tree.num_tokens)
    with torch.no_grad():
        ours = imported(tmp_path)[0](batch)
    torch.testing.assert_close(ours, summed_log_probs(model, tree), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 30_000])
def test_import_then_export_is_bit_identical(tmp_path, name, shard_bytes):
    model = save_model(tmp_path / "source", name, max_shard_size=shard_bytes)
    architecture = read_architecture(tmp_path / "source")
    chunks = imported(tmp_path / "source")
    export_model(tmp_path / "out", chunks, architecture, tmp_path / "source", max_shard_bytes=shard_bytes)
    assert hash_weights(tmp_path / "out") == hash_weights(tmp_path / "source")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_padding_rows_are_zero(tmp_path):
    save_model(tmp_path, "llama")
    weight = imported(tmp_path)[0].embedding.word_embeddings.weight
    assert weight.shape == (384, 64)
    assert weight[:300].abs().sum() > 0
    assert weight[300:].abs().sum() == 0


def test_dtype_is_converted_both_ways(tmp_path):
    model = save_model(tmp_path / "source", "qwen2")
    chunks = imported(tmp_path / "source", torch.bfloat16)
    export_model(tmp_path / "out", chunks, read_architecture(tmp_path / "source"), tmp_path / "source", "float32")
    name = "model.layers.1.self_attn.q_proj.weight"
    written = load_file(tmp_path / "out" / "model.safetensors")[name]
    assert torch.equal(written, model.state_dict()[name].bfloat16().float())


def test_model_of_another_shape_is_refused(llama):
    architecture = replace(read_architecture(llama), ffn_hidden_size=128)
    chunks = build_gpt(architecture, ParallelLayout())
    with pytest.raises(CheckpointError, match=r"mlp\.gate_proj\.weight has the wrong shape"):
        load_weights(llama, chunks, architecture)
    with pytest.raises(CheckpointError, match=r"linear_fc1\.weight .*different shapes"):
        load_weights(llama, chunks, read_architecture(llama))


def chunk(layer_numbers: list[int], names: list[str]) -> SimpleNamespace:
    """What ``named_parameters`` needs of a GPTModel; megatron-core counts ``layer_number`` from 1."""
    layers = [SimpleNamespace(layer_number=number) for number in layer_numbers]
    return SimpleNamespace(decoder=SimpleNamespace(layers=layers), named_parameters=lambda: [(n, n) for n in names])


def test_layers_are_numbered_over_the_whole_model():
    names = ["decoder.layers.0.mlp.linear_fc2.weight", "decoder.layers.1.mlp.linear_fc2.weight"]
    found = list(named_parameters([chunk([3, 4], names), chunk([7], names[:1])]))
    assert [(name, layer) for name, layer, _ in found] == [
        ("decoder.layers.*.mlp.linear_fc2.weight", 2),
        ("decoder.layers.*.mlp.linear_fc2.weight", 3),
        ("decoder.layers.*.mlp.linear_fc2.weight", 6),
    ]


def test_norms_that_transformer_engine_fuses_have_the_local_names():
    fused = ["self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight"]
    found = list(named_parameters([chunk([1], [f"decoder.layers.0.{name}" for name in fused])]))
    sources = [source for name, _, _ in found for source in FAMILIES["llama"].rule(name).sources]
    assert sources == ["model.layers.*.input_layernorm.weight", "model.layers.*.post_attention_layernorm.weight"]
