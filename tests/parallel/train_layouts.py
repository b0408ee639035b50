# SPDX-License-Identifier: Apache-2.0
"""One process of test_layouts: whole runs in several layouts, one after another, recording every drawn batch.

torchrun --nproc-per-node=2 train_layouts.py RUNS.json

RUNS.json is a list of [log directory, [override, …]]; besides its metrics, each run writes ``draws-RANK.json``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from megatron.core import parallel_state
from probe_objective import probe

from nemo_mcpo.algorithms import mcpo, run
from nemo_mcpo.algorithms.configuration import load_run_config
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.platform.command import run_command, world_size_from_environment

CONF = Path(__file__).parents[2] / "examples" / "conf"


def main(argv: list[str]) -> None:
    draws: list = []
    draw = mcpo.draw

    def recorded(*args):
        drawn = draw(*args)
        draws.extend([tree.prompt_id, [c.tolist() for c in tree.completions]] for tree in drawn.batch.trees)
        return drawn

    mcpo.draw = recorded
    OBJECTIVES["probe"] = probe
    run.shut_down = parallel_state.destroy_model_parallel  # keep the processes for the next layout
    for directory, overrides in json.loads(Path(argv[0]).read_text()):
        draws.clear()
        config = load_run_config(
            overrides, config_dir=CONF, config_name="tiny_cpu", world_size=world_size_from_environment()
        )
        run.run_mcpo(
            config, open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
        )
        (Path(directory) / f"draws-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(draws))


if __name__ == "__main__":
    run_command(main)
