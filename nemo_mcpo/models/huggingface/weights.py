# SPDX-License-Identifier: Apache-2.0
"""Moves weights between a Hugging Face directory and megatron-core model chunks, one tensor at a time.

Import: every rank reads only the slices of its tensor-parallel share and pipeline layers.
Export: every tensor is gathered over the tensor-parallel group of the pipeline stage that owns it, then sent to the
writing rank, which streams it to the file. Host memory stays near the size of one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

from nemo_mcpo.errors import CheckpointError, NemoMcpoError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.huggingface.checkpoint import open_checkpoint
from nemo_mcpo.models.huggingface.families import (
    CANONICAL_SUFFIXES,
    EMBEDDING,
    FAMILIES,
    OUTPUT,
    Rule,
    at_layer,
    model_rules,
    tensor_shapes,
)
from nemo_mcpo.models.huggingface.layouts import LAYOUTS
from nemo_mcpo.models.huggingface.shards import MAX_SHARD_BYTES, plan_shards, write_shards
from nemo_mcpo.platform.distributed import any_rank, local_device

LOCAL_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


@torch.no_grad()
def load_weights(directory: str | Path, chunks: Sequence[GPTModel], architecture: ModelArchitecture) -> None:
    """Fill the chunks' parameters from a Hugging Face directory, converted to their dtype and device.

    Every rank calls this before the optimizer copies the parameters. Rows that pad the vocabulary become zero.
    """
    checkpoint = open_checkpoint(Path(directory), architecture)
    family = FAMILIES[architecture.family]
    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    _check_parallel_size(architecture, size)
    for name, layer, parameter in named_parameters(chunks):
        if name == OUTPUT and architecture.tied_embeddings:
            name = EMBEDDING
        rule = family.rule(name)
        sources = [checkpoint[at_layer(source, layer)] for source in rule.sources]
        value = LAYOUTS[rule.layout].split(sources, architecture, rank, size)
        if value.shape != parameter.shape:
            raise CheckpointError(
                f"parameter {at_layer(name, layer)} and its weights have different shapes",
                where=str(directory),
                got=list(value.shape),
                expected=list(parameter.shape),
                fix="build the model from this directory's ModelArchitecture",
            )
        parameter.copy_(value)


def _check_parallel_size(architecture: ModelArchitecture, size: int) -> None:
    divided = {
        "num_query_groups": architecture.num_query_groups,
        "ffn_hidden_size": architecture.ffn_hidden_size,
        "the padded vocabulary": architecture.padded_vocab_size,
    }
    for name, value in divided.items():
        if value % size:
            raise CheckpointError(
                f"tensor_model_parallel_size does not divide {name}",
                where="model.tensor_model_parallel_size",
                got=size,
                expected=f"a divisor of {value}",
                fix="use a smaller tensor_model_parallel_size",
            )


@torch.no_grad()
def export_weights(
    directory: str | Path,
    chunks: Sequence[GPTModel],
    architecture: ModelArchitecture,
    dtype: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the chunks' parameters as the safetensors files of a Hugging Face directory.

    Every rank calls this, one rank writes, and all return once the files are complete.
    """
    torch_dtype = getattr(torch, dtype)
    problem: Exception | None = None
    if parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0:
        tensors = _gather_tensors(chunks, architecture, torch_dtype)
        if is_writer():
            shards = plan_shards(tensor_shapes(architecture), torch_dtype, max_shard_bytes)
            try:
                write_shards(Path(directory), shards, torch_dtype, tensors)
            except (OSError, NemoMcpoError) as error:
                problem = error
        # Keep receiving after a failure, or the other ranks would wait forever.
        for _ in tensors:
            pass
    raise_on_every_rank(problem, Path(directory))


def is_writer() -> bool:
    """Return whether this rank writes the files: it is the first rank of the first replica."""
    return (
        parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0
        and parallel_state.get_pipeline_model_parallel_rank() == 0
        and parallel_state.get_tensor_model_parallel_rank() == 0
    )


def raise_on_every_rank(problem: Exception | None, directory: Path) -> None:
    """Raise the writer's problem on every rank, so that none keeps waiting; also a barrier."""
    if not any_rank(problem is not None):
        return
    if isinstance(problem, NemoMcpoError):
        raise problem
    raise CheckpointError(
        "cannot write the model",
        where=str(directory),
        got=problem or "see the first rank",
        fix="check disk space and permissions",
    ) from problem


def _gather_tensors(
    chunks: Sequence[GPTModel], architecture: ModelArchitecture, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Yield ``(name, tensor)`` of every Hugging Face tensor in order; the tensor is None except on the writer."""
    mine = {(name, layer): parameter for name, layer, parameter in named_parameters(chunks)}
    owners = _owning_stages(list(mine))
    shapes = tensor_shapes(architecture)
    for rule, layer in model_rules(architecture):
        stage = owners.get((rule.parameter, layer))
        if stage is None:
            raise CheckpointError("the model lacks this parameter", where=at_layer(rule.parameter, layer))
        parts = _gather_parameter(mine.get((rule.parameter, layer)), rule, stage, architecture, dtype)
        for index, source in enumerate(rule.sources):
            name = at_layer(source, layer)
            yield name, _send_to_writer(parts[index] if parts else None, stage, shapes[name], dtype)


def _owning_stages(mine: list[tuple[str, int | None]]) -> dict[tuple[str, int | None], int]:
    """Return the pipeline stage of every parameter; the first one if several hold it (a tied embedding)."""
    group = parallel_state.get_pipeline_model_parallel_group()
    per_stage: list[list[tuple[str, int | None]]] = [[] for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(per_stage, mine, group=group)
    return {key: stage for stage, keys in reversed(list(enumerate(per_stage))) for key in keys}


def _gather_parameter(
    parameter: torch.nn.Parameter | None,
    rule: Rule,
    stage: int,
    architecture: ModelArchitecture,
    dtype: torch.dtype,
) -> list[torch.Tensor] | None:
    """Return a parameter's Hugging Face tensors on the first tensor-parallel rank of its stage, None elsewhere."""
    if parameter is None or parallel_state.get_pipeline_model_parallel_rank() != stage:
        return None
    shard = parameter.detach().to(dtype).contiguous()
    group = parallel_state.get_tensor_model_parallel_group()
    size, first = dist.get_world_size(group), parallel_state.get_tensor_model_parallel_rank() == 0
    if size > 1 and rule.layout != "replicated":
        shards = [torch.empty_like(shard) for _ in range(size)] if first else None
        dist.gather(shard, shards, dst=dist.get_global_rank(group, 0), group=group)
    else:
        shards = [shard] if first else None
    return LAYOUTS[rule.layout].join(shards, architecture) if shards else None


def _send_to_writer(
    tensor: torch.Tensor | None, stage: int, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor | None:
    """Send a tensor from its stage to the first stage, over the pipeline group of the first tensor-parallel ranks."""
    if parallel_state.get_tensor_model_parallel_rank() != 0:
        return None
    group = parallel_state.get_pipeline_model_parallel_group()
    rank = parallel_state.get_pipeline_model_parallel_rank()
    if stage == 0:
        return tensor
    if rank == stage and tensor is not None:
        dist.send(tensor.contiguous(), dst=dist.get_global_rank(group, 0), group=group)
    if rank == 0:
        tensor = torch.empty(shape, dtype=dtype, device=local_device())
        dist.recv(tensor, src=dist.get_global_rank(group, stage), group=group)
        return tensor
    return None


def named_parameters(chunks: Sequence[GPTModel]) -> Iterator[tuple[str, int | None, torch.nn.Parameter]]:
    """Yield ``(name, layer, parameter)`` for every parameter of this rank's chunks.

    ``name`` is the name in the local layer spec, with ``*`` for the layer. ``layer`` counts from 0 over the whole
    model and is None outside the layers.
    """
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            match = LOCAL_LAYER.fullmatch(name)
            if match is None:
                yield name, None, parameter
            else:
                layer = chunk.decoder.layers[int(match[1])].layer_number - 1
                yield f"decoder.layers.*.{CANONICAL_SUFFIXES.get(match[2], match[2])}", layer, parameter
