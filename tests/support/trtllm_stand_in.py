# SPDX-License-Identifier: Apache-2.0
"""A stand-in for ``trtllm-serve``: takes its command line, refuses what it would refuse; answers are a function.

python tests/support/trtllm_stand_in.py MODEL --host 127.0.0.1 --port 8000 --backend pytorch …
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fake_server import Behavior, Server, handler_of, verdict_of, words_of

OPTIONS = {"max_input_len", "cuda_graph_config", "scheduler_config", "kv_cache_config"}
"""Options that the file may contain; the real program refuses names that are not among its arguments."""


def answer(body: dict[str, Any]) -> str:
    """Answer a conversation with a verdict, and token ids with words."""
    return verdict_of(body) if "messages" in body else words_of(body)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("model", type=Path)
    parser.add_argument("--host")
    for name in ("port", "tp_size", "pp_size", "max_batch_size", "max_num_tokens", "max_seq_len"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--backend", choices=["pytorch"])
    parser.add_argument("--kv_cache_free_gpu_memory_fraction", type=float)
    parser.add_argument("--extra_llm_api_options", type=Path)
    arguments = parser.parse_args()
    if unknown := set(json.loads(arguments.extra_llm_api_options.read_text())) - OPTIONS:
        parser.error(f"unknown options in the file: {unknown}")
    if not (arguments.model / "config.json").is_file():
        parser.error(f"no model at {arguments.model}")
    behavior = Behavior(answer, models=[arguments.model.name], takes_tokens=True)
    Server((arguments.host, arguments.port), handler_of(behavior)).serve_forever()


if __name__ == "__main__":
    main()
