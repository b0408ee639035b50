# SPDX-License-Identifier: Apache-2.0
"""One process of test_exact_gradients: the gradients of one batch in float64, in every mode of the engine.

torchrun --nproc-per-node=2 exact_gradients.py DIRECTORY LAYOUT …

Reads DIRECTORY/model and DIRECTORY/batch.pickle: trees, drawn columns and reference log-probs. Writes
DIRECTORY/LAYOUT/WAY: the gradients as the tensors of a Hugging Face directory.
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from nemo_mcpo.algorithms.negatives import prune
from nemo_mcpo.models.forward_step import score_trees, train_trees
from nemo_mcpo.models.gpt import ParallelLayout, build_gpt
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.huggingface.weights import export_weights, is_writer, load_weights
from nemo_mcpo.models.megatron_gpt_mcpo_model import scoring_recording
from nemo_mcpo.models.optimizer import finish_gradients
from nemo_mcpo.models.rows import share_of_replica
from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.platform.distributed import initialize_parallel, shut_down

LAYOUTS = {
    "one": ParallelLayout(),
    "dp2": ParallelLayout(),
    "tp2": ParallelLayout(tensor=2),
    "tp2-sp": ParallelLayout(tensor=2, sequence_parallel=True),
    "pp2": ParallelLayout(pipeline=2),
    "interleaved": ParallelLayout(pipeline=2, virtual_pipeline=2),
}
WAYS: dict[str, tuple[dict[str, str], bool, bool]] = {
    "separate sequences": ({"attention_backend": "sdpa"}, False, False),
    "sdpa": ({"attention_backend": "sdpa"}, True, False),
    "cascade": ({"attention_backend": "cascade"}, True, False),
    "selective recompute": ({"recompute": "selective"}, True, False),
    "full recompute": ({"recompute": "full"}, True, False),
    "products replayed": ({"recompute": "none"}, True, True),
    "products replayed, selective recompute": ({"recompute": "selective"}, True, True),
    "layers replayed": ({"recompute": "full"}, True, True),
}
"""Mode -> changes of the layout, whether prompts are shared, and whether scoring is replayed."""

SCORING_TOKENS, MICRO_BATCH_TOKENS = 90, 40
BETA = 0.5


def main(directory: str, *layouts: str) -> None:
    torch.set_num_threads(1)
    for name in layouts:
        layout = LAYOUTS[name]
        initialize_parallel(
            tensor_parallel=layout.tensor,
            pipeline_parallel=layout.pipeline,
            virtual_pipeline_parallel=layout.virtual_pipeline,
            seed=1,
        )
        for way in WAYS:
            write_gradients(Path(directory), Path(directory) / name / way, layout, way)
        parallel_state.destroy_model_parallel()
    shut_down()


def write_gradients(directory: Path, out: Path, layout: ParallelLayout, way: str) -> None:
    changes, share_prompts, reuse = WAYS[way]
    architecture = read_architecture(directory / "model")
    layout = replace(layout, dtype=torch.float64, **changes)
    chunks = build_gpt(architecture, layout)
    load_weights(directory / "model", chunks, architecture)
    ddp = DistributedDataParallelConfig(grad_reduce_in_fp32=False)
    wrapped: list = [
        DistributedDataParallel(chunk.config, ddp, chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(chunks)
    ]
    trees, columns_BM, reference_BK = pickle.loads((directory / "batch.pickle").read_bytes())
    rows = share_of_replica(trees)
    mine = [trees[row] for row in rows]
    scored = None
    if reuse:
        recording = scoring_recording(True, layout)
        scored = score_trees(wrapped, mine, SCORING_TOKENS, first_column=1, recording=recording)
    train_trees(
        wrapped,
        prune(mine, columns_BM[rows], reference_BK[rows]),
        partial(OBJECTIVES["mcpo"], beta=BETA),
        MICRO_BATCH_TOKENS,
        scored=scored,
        share_prompts=share_prompts,
    )
    finish_gradients(wrapped, len(trees))
    with torch.no_grad():
        for parameter in (parameter for chunk in chunks for parameter in chunk.parameters()):
            parameter.copy_(parameter.main_grad)
    if is_writer():
        out.mkdir(parents=True)
    export_weights(out, chunks, architecture, "float64")


if __name__ == "__main__":
    main(*sys.argv[1:])
