# SPDX-License-Identifier: Apache-2.0
"""What some version of transformers makes of directories: logits, how they sample, and config.json as it writes it.

    PYTHONPATH=ENVIRONMENT python logits_of_exports.py OUT DIRECTORY …

Imports nothing of nemo_mcpo: it is run in environments that it does not know.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SETTINGS = ("do_sample", "top_k", "repetition_penalty", "eos_token_id")
IDS = (torch.arange(192) * 37 + 5)[None] % 299


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """Of one fixed sequence, float32 ``[192, vocab]``."""
    with torch.inference_mode():
        return model.eval()(IDS).logits[0].float()


def main(out: Path, directories: list[Path]) -> None:
    """Write OUT/logits.safetensors, OUT/facts.json and OUT/<name>/config.json."""
    logits, settings = {}, {}
    for directory in directories:
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        logits[directory.name] = logits_of(model).contiguous()
        settings[directory.name] = {key: getattr(model.generation_config, key) for key in SETTINGS}
        (out / directory.name).mkdir(parents=True)
        model.config.to_json_file(out / directory.name / "config.json")
    save_file(logits, out / "logits.safetensors")
    facts = {"version": transformers.__version__, "settings": settings}
    (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
