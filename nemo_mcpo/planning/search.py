# SPDX-License-Identifier: Apache-2.0
"""Which layouts of a configuration fit, and the one to propose.

Tried: tensor parallelism inside of a node (with sequence parallelism), pipelines, every recompute, and rows of the
configured budget, a half or a quarter of it. Proposed: of those within a twentieth of the fastest the one that splits
the model least, with the larger rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from nemo_mcpo.config import RunConfig, check_architecture
from nemo_mcpo.config.rules import check_processes
from nemo_mcpo.errors import ConfigError, NemoMcpoError
from nemo_mcpo.planning.gpus import GPUS_PER_NODE
from nemo_mcpo.planning.memory import GIB
from nemo_mcpo.planning.plan import Plan, make_plan
from nemo_mcpo.planning.workload import Question

NEARLY_AS_FAST = 1.05
MOST_NODES = 512


class DoesNotFitError(NemoMcpoError):
    """A run that needs more memory than its GPUs have."""


def best_plan(config: RunConfig, question: Question, num_gpus: int) -> Plan | None:
    """The plan to propose on so many GPUs, or None where no layout fits."""
    fitting = [plan for plan in _plans(config, question, num_gpus) if plan.fits]
    if not fitting:
        return None
    fastest = min(plan.time.step_seconds for plan in fitting)
    near = [plan for plan in fitting if plan.time.step_seconds <= NEARLY_AS_FAST * fastest]
    return min(near, key=_preference)


def check_fits(plan: Plan, config: RunConfig) -> None:
    """Raise DoesNotFitError with a layout that fits, or with the number of GPUs that would do."""
    if plan.fits:
        return
    question, num_gpus = plan.question, plan.layout.num_gpus
    if better := best_plan(config, question, num_gpus):
        cure = f"set {overrides_of(better)} ({better.memory.peak / GIB:.1f} GiB)"
    elif enough := _fewer_gpus(config, question, num_gpus) or fewest_gpus(config, question, num_gpus):
        wanted = enough.layout.num_gpus
        cure = f"no layout fits on {num_gpus} GPUs: use {wanted} with {overrides_of(enough)}"
    else:
        cure = f"no layout fits on up to {MOST_NODES * GPUS_PER_NODE} of these GPUs: choose GPUs with more memory"
    raise DoesNotFitError(
        "the run does not fit",
        where=f"{num_gpus} x {question.gpu.name}",
        got=f"{plan.memory.peak / GIB:.1f} GiB on a GPU of pipeline stage {plan.memory.stage + 1}",
        expected=f"at most {question.gpu.gibibytes:.1f} GiB",
        cure=cure,
    )


def fewest_gpus(config: RunConfig, question: Question, more_than: int) -> Plan | None:
    """The plan on the fewest whole nodes with more GPUs than that."""
    first = more_than // GPUS_PER_NODE + 1
    plans = (best_plan(config, question, nodes * GPUS_PER_NODE) for nodes in range(first, MOST_NODES + 1))
    return next((plan for plan in plans if plan), None)


def _fewer_gpus(config: RunConfig, question: Question, less_than: int) -> Plan | None:
    """The plan on the most whole nodes with fewer GPUs than that, into which the layers divide better."""
    most = (less_than - 1) // GPUS_PER_NODE * GPUS_PER_NODE
    plans = (best_plan(config, question, count) for count in range(most, 0, -GPUS_PER_NODE))
    return next((plan for plan in plans if plan), None)


def overrides_of(plan: Plan) -> str:
    """The layout as keys on the command line."""
    layout = plan.layout
    recompute = "null" if layout.recompute == "none" else layout.recompute
    return (
        f"model.tensor_model_parallel_size={layout.tensor} model.pipeline_model_parallel_size={layout.pipeline} "
        f"model.virtual_pipeline_model_parallel_size=null "
        f"model.sequence_parallel={str(layout.sequence_parallel).lower()} "
        f"model.activations_checkpoint_granularity={recompute} model.micro_batch_tokens={layout.micro_batch_tokens}"
    )


def _preference(plan: Plan) -> tuple:
    layout = plan.layout
    recompute = ("none", "selective", "full").index(layout.recompute)
    return (layout.tensor * layout.pipeline, layout.pipeline, -layout.micro_batch_tokens, recompute)


def _plans(config: RunConfig, question: Question, num_gpus: int) -> Iterator[Plan]:
    """Every layout that the rules allow."""
    layers, budget = question.architecture.num_layers, config.model.micro_batch_tokens
    reuse = "auto" if config.model.mcpo.reuse_scoring is True else config.model.mcpo.reuse_scoring
    for tensor in (1, 2, 4, 8):
        for pipeline in (size for size in range(1, layers + 1) if layers % size == 0):
            if num_gpus % (tensor * pipeline):
                continue
            changes: dict[str, object] = {
                "tensor_model_parallel_size": tensor,
                "pipeline_model_parallel_size": pipeline,
                "virtual_pipeline_model_parallel_size": None,
                "sequence_parallel": tensor > 1,
                "mcpo": config.model.mcpo.model_copy(update={"reuse_scoring": reuse}),
            }
            if not _allowed(_changed(config, changes), question, num_gpus):
                continue
            for recompute in (None, "selective", "full"):
                for tokens in (budget, budget // 2, budget // 4):
                    if tokens == budget or tokens >= max(config.model.data.max_length, question.data.longest):
                        changes |= {"activations_checkpoint_granularity": recompute, "micro_batch_tokens": tokens}
                        yield make_plan(_changed(config, changes), question, num_gpus)


def _allowed(config: RunConfig, question: Question, num_gpus: int) -> bool:
    try:
        check_processes(config, num_gpus)
        check_architecture(config, question.architecture)
    except ConfigError:
        return False
    return True


def _changed(config: RunConfig, changes: dict[str, object]) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})
