# SPDX-License-Identifier: Apache-2.0
"""Exports, loaded by the installed transformers and by the newest 5.x, compute the same as their models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nemo_mcpo.models.gpt import ParallelLayout, build_gpt
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.huggingface.export import export_model
from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.models.huggingface.loading import load_model
from nemo_mcpo.models.huggingface.tiny import ROLES
from nemo_mcpo.models.huggingface.weights import load_weights
from nemo_mcpo.platform.distributed import initialize_parallel, shut_down
from nemo_mcpo.platform.saved_tokenizers import load_tokenizer
from tests.support import logits_of_exports
from tests.support.environments import installed
from tests.support.launch import tiny_chat_model
from tests.support.models import LLAMA3, save_model

pytestmark = pytest.mark.functional
VARIANTS = {
    "plain": {},
    "base": {"rope_theta": 500000.0},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "tied": {"tie_word_embeddings": True},
    "heads": {"head_dim": 20, "num_key_value_heads": 4},
}
WINDOWS = {
    "mistral-window": {"sliding_window": 24},
    "qwen2-window": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0},
    "qwen3-window": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0},
}
MODELS = {f"{family}-{name}": changes for family in FAMILIES for name, changes in VARIANTS.items()} | WINDOWS
DEMO = {"eos_token_id": [2, 5], "top_k": 20, "repetition_penalty": 1.1}
MARKS = [f"<|{role}|>" for role in ROLES]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[Path, torch.Tensor]:
    """Exports, with the logits of their original models."""
    folder, expected = tmp_path_factory.mktemp("models"), {}
    initialize_parallel(tensor_parallel=1, pipeline_parallel=1, virtual_pipeline_parallel=None, seed=1)
    sources = {name: folder / "sources" / name for name in MODELS}
    for name, changes in MODELS.items():
        family = name.split("-")[0]
        save_model(sources[name], family, **({"sliding_window": None} if family == "mistral" else {}) | changes)
        (sources[name] / "generation_config.json").write_text(json.dumps(DEMO))
    sources["chat"] = tiny_chat_model(folder)
    for name, source in sources.items():
        architecture = read_architecture(source)
        chunks = build_gpt(architecture, ParallelLayout())
        load_weights(source, chunks, architecture)
        export_model(folder / name, chunks, architecture, source)
        model = load_model(AutoModelForCausalLM, source, where="the source")
        expected[folder / name] = logits_of_exports.logits_of(model)
    shut_down()
    return expected


@pytest.mark.parametrize("requirement", [f"transformers=={transformers.__version__}", "transformers>=5,<6"])
def test_every_version_computes_the_same(exports, tmp_path, requirement):
    environment = "" if "==" in requirement else str(installed(requirement))
    command = [sys.executable, logits_of_exports.__file__, tmp_path, *exports]
    # Another environment, without this project on its path.
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    facts, logits = json.loads((tmp_path / "facts.json").read_text()), load_file(tmp_path / "logits.safetensors")
    assert (facts["version"] == transformers.__version__) == ("==" in requirement)
    off = {export.name: (logits[export.name] - own).abs().max().item() for export, own in exports.items()}
    assert max(off.values()) <= TOLERANCE, (facts["version"], off)
    for export in exports:
        architecture = read_architecture(export)
        ends = DEMO["eos_token_id"] if export.name in MODELS else 2
        neutral = {"do_sample": True, "top_k": architecture.vocab_size, "repetition_penalty": 1.0}
        assert facts["settings"][export.name] == neutral | {"eos_token_id": ends}
        # What that version saves reads back the same.
        assert read_architecture(tmp_path / export.name) == architecture
    for directory in (export.parent / "chat", tmp_path / "chat"):
        tokenizer = load_tokenizer(directory)
        prompt = tokenizer.apply_chat_template(logits_of_exports.TURNS, add_generation_prompt=True)
        assert prompt == facts["prompts"]["chat"]
        assert {*MARKS, "<|begin|>", "<|end|>", "<|pad|>"} == set(tokenizer.all_special_tokens)
