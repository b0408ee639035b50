# SPDX-License-Identifier: Apache-2.0
"""megatron-core's pipeline schedules for micro-batches of different lengths, with or without a backward pass.

Stages send the shape of every tensor before the tensor (``variable_seq_lengths``), so that no row is padded to the
longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

Shape = list[int]
_GROUPS = ["tp", "pp", "cp", "embd", "pos_embd", "dp_cp"]


def run_schedule(
    chunks: list, micro_batches: Sequence, forward_step: Callable, *, seq_length: int, forward_only: bool
) -> None:
    """Run every micro-batch through all stages, accumulating gradients in the model.

    Args:
        micro_batches: micro-batches, the same on every rank of a replica.
        forward_step: megatron-core's ``forward_step_func``.
        seq_length: length of any row; megatron-core only checks that it is given.
    """
    config = chunks[0].config
    groups: dict[str, object] = {}
    if config.variable_seq_lengths:
        group = parallel_state.get_pipeline_model_parallel_group()
        groups["p2p_communicator"] = RowCommunicator(group, config)
        groups["pg_collection"] = ProcessGroupCollection.use_mpu_process_groups(required_pgs=_GROUPS)
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(micro_batches) for _ in chunks],
        model=chunks,
        num_microbatches=len(micro_batches),
        seq_length=seq_length,
        micro_batch_size=1,
        forward_only=forward_only,
        **groups,
    )


class RowCommunicator(P2PCommunicator):
    """megatron-core's communicator, with an order of shape messages that also works for a pipeline of two stages.

    With two stages, the next stage is also the previous one, and messages between two ranks arrive in the order they
    were sent. So the shape that goes forward must come first, or second, on both sides. megatron-core sends the
    backward one first but receives the forward one first, which swaps the two shapes.

    Shapes travel from host to host (with gloo), because reading one from a GPU would wait for all work launched before
    it.
    """

    def _communicate_shapes(
        self, tensor_send_next: Tensor | None, tensor_send_prev: Tensor | None, recv_prev: bool, recv_next: bool
    ) -> tuple[Shape, Shape]:
        from_prev, from_next = torch.zeros(2, 3, dtype=torch.int64)

        def sizes(tensor: Tensor) -> Tensor:
            return torch.tensor(tensor.shape, dtype=torch.int64)

        exchanges = []
        if tensor_send_next is not None:
            exchanges.append(dist.P2POp(dist.isend, sizes(tensor_send_next), self.next_rank, self.pp_group))
        if recv_prev:
            exchanges.append(dist.P2POp(dist.irecv, from_prev, self.prev_rank, self.pp_group))
        if tensor_send_prev is not None:
            exchanges.append(dist.P2POp(dist.isend, sizes(tensor_send_prev), self.prev_rank, self.pp_group))
        if recv_next:
            exchanges.append(dist.P2POp(dist.irecv, from_next, self.next_rank, self.pp_group))
        for request in dist.batch_isend_irecv(exchanges) if exchanges else ():
            request.wait()
        return from_prev.tolist(), from_next.tolist()
