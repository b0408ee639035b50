# SPDX-License-Identifier: Apache-2.0
"""Records what a version of transformers makes of models: logits, sampling settings, a prompt, and saved files.

    PYTHONPATH=ENVIRONMENT python logits_of_exports.py OUT DIRECTORY …

Imports nothing from nemo_mcpo, since it runs in environments without it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SETTINGS = ("do_sample", "top_k", "repetition_penalty", "eos_token_id")
TURNS = [{"role": "user", "content": "A question?"}]
IDS = (torch.arange(192) * 37 + 5)[None] % 277


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """Return the logits of one fixed sequence, float32 ``[192, vocab]``."""
    with torch.inference_mode():
        return model.eval()(IDS).logits[0].float()


def main(out: Path, directories: list[Path]) -> None:
    """Write OUT/logits.safetensors, OUT/facts.json, and OUT/<name> with config.json and the tokenizer."""
    logits, settings, prompts = {}, {}, {}
    for directory in directories:
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        logits[directory.name] = logits_of(model).contiguous()
        settings[directory.name] = {key: getattr(model.generation_config, key) for key in SETTINGS}
        (out / directory.name).mkdir(parents=True)
        if (directory / "tokenizer.json").exists():
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
            prompts[directory.name] = tokenizer.apply_chat_template(
                TURNS, add_generation_prompt=True, return_dict=False
            )
            tokenizer.save_pretrained(out / directory.name)
        model.config.to_json_file(out / directory.name / "config.json")
    save_file(logits, out / "logits.safetensors")
    facts = {"version": transformers.__version__, "settings": settings, "prompts": prompts}
    (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
