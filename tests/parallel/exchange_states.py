# SPDX-License-Identifier: Apache-2.0
"""One process of test_exchange_states: states with unique numbers are gathered, saved and loaded.

torchrun --nproc-per-node=2 exchange_states.py DIRECTORY LAYOUT …
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from omegaconf import OmegaConf
from plan_against_run import configuration
from planned import ARCHITECTURES, LAYOUTS, each_layout, fill
from torch import Tensor

from nemo_mcpo.models import state_exchange
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel, model_config
from nemo_mcpo.models.optimizer import optimizer_parts
from nemo_mcpo.models.sharded_state import load_sharded_state, save_sharded_state
from nemo_mcpo.models.state_exchange import STATES, gather_states
from nemo_mcpo.platform.distributed import is_rank_zero

UNEVEN = {
    "num_layers": 4, "hidden_size": 40, "ffn_hidden_size": 74, "num_attention_heads": 4, "num_query_groups": 2,
    "head_dim": 10, "vocab_size": 101,
}  # fmt: skip
"""Sizes that megatron-core's buffers must pad."""


def main(directory: str, *names: str) -> None:
    state_exchange.ELEMENTS_PER_EXCHANGE = 1000  # most parameters in several pieces
    for name, layout in each_layout({name: LAYOUTS[name] for name in names}):
        for precision, offload in (("32", "false"), ("bf16", "true")):
            keys = (f"trainer.precision={precision}", f"model.optim.cpu_offload={offload}")
            config = configuration(layout, *keys)
            architecture = replace(ARCHITECTURES["tied"], **UNEVEN)
            model = MegatronGPTMCPOModel(OmegaConf.create(model_config(config, architecture)))
            fill([parameter for chunk in model.chunks for parameter in chunk.parameters()])
            model.setup_training(config, num_steps=10)
            check(model, Path(directory) / f"{name}-{precision}")


def check(model: MegatronGPTMCPOModel, directory: Path) -> None:
    parts = optimizer_parts(model.optimizer)
    for part in parts:
        if not part.optimizer.state:
            part._init_optimizer_states_with_dummy_values()
        for state, expected in numbered(part):
            state.copy_(expected)
        check_gathered(part)
    if is_rank_zero():
        directory.mkdir(parents=True)
    dist.barrier()
    save_sharded_state(model, directory)
    for part in parts:
        for state, _ in numbered(part):
            state.zero_()
    load_sharded_state(model, directory)
    for part in parts:
        for state, expected in numbered(part):
            assert torch.equal(state, expected)


@torch.no_grad()
def numbered(part) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every state of this replica's share, and the expected numbers."""
    for ranges in part.gbuf_ranges:
        for of_bucket in next(iter(ranges.values())):
            for parameter, at in of_bucket["param_map"].items():
                start, stop = at["param"].start, at["param"].end
                states = part._get_main_param_and_optimizer_states(parameter)
                for name in STATES:
                    yield states[name].detach().view(-1), numbers(part, parameter, name)[start:stop]


def numbers(part, parameter: Tensor, name: str) -> Tensor:
    """Return the numbers of a whole state; a tied embedding has the same on both stages."""
    number = next(number for number, buffer in enumerate(part.buffers) if parameter in buffer.param_index_map)
    first = part.buffers[number].param_index_map[parameter][0]
    first += (2 * parallel_state.get_pipeline_model_parallel_rank() + number) << 16
    is_tied = getattr(parameter, "shared_embedding", False)
    return torch.arange(parameter.numel()) + (0 if is_tied else first) + 0.25 * STATES.index(name)


def check_gathered(part) -> None:
    found = gather_states(part, empty_data=False)
    if part.data_parallel_group.rank():
        assert found is None
        return
    for number, buffer in enumerate(part.buffers):
        [tensors] = found[number].values()
        for parameter, (start, stop, _) in buffer.param_index_map.items():
            for name in STATES:
                expected = numbers(part, parameter, name)
                assert torch.equal(tensors[name][start:stop], expected), (number, tuple(parameter.shape), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
