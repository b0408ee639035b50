# SPDX-License-Identifier: Apache-2.0
"""Finds layouts of a configuration that fit, and proposes one.

The search covers tensor parallelism within a node (with sequence parallelism), pipelines, every kind of recompute, and
rows of the configured budgets, half of them, a quarter, … down to one mean prompt with its completions. Among layouts
at most 5 % slower than the fastest, it proposes the one that splits the model least, then the one with larger rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from nemo_mcpo.config import RunConfig, check_architecture
from nemo_mcpo.config.fp8 import check_capability
from nemo_mcpo.config.rules import check_processes
from nemo_mcpo.config.schema import changed
from nemo_mcpo.errors import ConfigError, NemoMcpoError
from nemo_mcpo.planning.gpus import GPUS_PER_NODE
from nemo_mcpo.planning.memory import GIB
from nemo_mcpo.planning.plan import Plan, make_plan
from nemo_mcpo.planning.workload import Question

NEARLY_AS_FAST = 1.05
MOST_NODES = 512
NOT_ABOUT_LAYOUT = ("trainer.devices", "model.data.max_length")
"""Keys whose errors no other layout would fix."""
OFFLOADED = {"model": {"optim": {"cpu_offload": True}}}
"""Changes with which the optimizer takes no GPU memory."""


class DoesNotFitError(NemoMcpoError):
    """The run needs more memory than its GPUs have."""


def best_plan(config: RunConfig, question: Question, num_gpus: int) -> Plan | None:
    """Return the proposed plan for ``num_gpus`` GPUs, or None if no layout fits."""
    fitting = list(_fitting(config, question, num_gpus))
    if not fitting:
        return None
    fastest = min(plan.time.step_seconds for plan in fitting)
    near = [plan for plan in fitting if plan.time.step_seconds <= NEARLY_AS_FAST * fastest]
    return min(near, key=_preference)


def proposal(config: RunConfig, question: Question, num_gpus: int) -> Plan | None:
    """Return the proposed plan for ``num_gpus`` GPUs, else for fewer, else for more, in whole nodes.

    Fewer GPUs can fit when more do not: the number of layers of some models divides better.
    """
    node = GPUS_PER_NODE
    fewer = range((num_gpus - 1) // node * node, 0, -node)
    more = range((num_gpus // node + 1) * node, (MOST_NODES + 1) * node, node)
    plans = (best_plan(config, question, count) for count in (num_gpus, *fewer, *more))
    return next((plan for plan in plans if plan), None)


def check_layout(config: RunConfig, question: Question, num_gpus: int) -> None:
    """Raise ConfigError, with a better layout, for one that training rejects or that crosses nodes."""
    gpu, tensor = question.gpu, config.model.tensor_model_parallel_size
    check_capability(config.model, gpu.name, gpu.capability)
    try:
        check_processes(config, num_gpus)
        check_architecture(config, question.architecture)
        if GPUS_PER_NODE % tensor:
            raise ConfigError(
                "tensor parallelism crosses nodes",
                where="model.tensor_model_parallel_size",
                got=tensor,
                expected=f"a divisor of the {GPUS_PER_NODE} GPUs of a node",
                fix="use pipeline parallelism between nodes",
            )
    except ConfigError as error:
        better = None if error.where in NOT_ABOUT_LAYOUT else proposal(config, question, num_gpus)
        if better is None:
            raise
        fix = f"{error.fix.rstrip('.')}; for {better.layout.num_gpus} GPUs: {overrides_of(better)}"
        raise ConfigError(error.what, where=error.where, got=error.got, expected=error.expected, fix=fix) from None


def check_fits(plan: Plan, config: RunConfig) -> None:
    """Raise DoesNotFitError if the plan does not fit, with a layout or a number of GPUs that does."""
    if plan.fits:
        return
    question, num_gpus = plan.question, plan.layout.num_gpus
    better = proposal(config, question, num_gpus)
    if better is None:
        fix = f"no layout fits on up to {MOST_NODES * GPUS_PER_NODE} of these GPUs: choose GPUs with more memory"
        fix += ", or lower model.micro_batch_tokens and the lengths of the data"
    elif better.layout.num_gpus == num_gpus:
        fix = f"set {overrides_of(better)} ({better.memory.peak / GIB:.1f} GiB)"
    else:
        fix = f"no layout fits on {num_gpus} GPUs: use {better.layout.num_gpus} with {overrides_of(better)}"
        offloaded = best_plan(changed(config, OFFLOADED), question, num_gpus)
        if offloaded:
            fix += f"; or, on {num_gpus} GPUs, model.optim.cpu_offload=true {overrides_of(offloaded)}"
            fix += f", with {offloaded.host_bytes / 1e9:,.0f} GB of host memory per node"
    raise DoesNotFitError(
        "the run does not fit",
        where=f"{num_gpus} x {question.gpu.name}",
        got=f"{plan.memory.peak / GIB:.1f} GiB on a GPU of pipeline stage {plan.memory.stage + 1}",
        expected=f"at most {question.gpu.gibibytes:.1f} GiB",
        fix=fix,
    )


def overrides_of(plan: Plan) -> str:
    """Return the layout as command-line overrides."""
    layout = plan.layout
    recompute = "null" if layout.recompute == "none" else layout.recompute
    return (
        f"model.tensor_model_parallel_size={layout.tensor} model.pipeline_model_parallel_size={layout.pipeline} "
        f"model.virtual_pipeline_model_parallel_size=null "
        f"model.sequence_parallel={str(layout.sequence_parallel).lower()} "
        f"model.activations_checkpoint_granularity={recompute} model.micro_batch_tokens={layout.micro_batch_tokens} "
        f"model.mcpo.scoring_tokens={layout.scoring_tokens}"
    )


def _preference(plan: Plan) -> tuple:
    layout = plan.layout
    recompute = ("none", "selective", "full").index(layout.recompute)
    return (layout.tensor * layout.pipeline, layout.pipeline, -layout.micro_batch_tokens, recompute)


def _fitting(config: RunConfig, question: Question, num_gpus: int) -> Iterator[Plan]:
    """Yield every allowed layout that fits, with rows below ``max_length`` only if no larger ones fit."""
    layers, reuse = question.architecture.num_layers, config.model.mcpo.reuse_scoring
    reuse = "auto" if reuse is True else reuse
    rows = list(budgets(config, question))
    pipelines = [size for size in range(1, layers + 1) if layers % size == 0]
    for tensor, pipeline in itertools.product((1, 2, 4, 8), pipelines):
        if num_gpus % (tensor * pipeline):
            continue
        layout = {
            "tensor_model_parallel_size": tensor,
            "pipeline_model_parallel_size": pipeline,
            "virtual_pipeline_model_parallel_size": None,
            "sequence_parallel": tensor > 1,
            "mcpo": {"reuse_scoring": reuse},
        }
        # With devices=auto, a layout may have any number of processes.
        laid_out = changed(config, {"trainer": {"devices": "auto"}, "model": layout})
        if not _allowed(laid_out, question, num_gpus):
            continue
        for recompute in (None, "selective", "full"):
            for tokens, scoring in rows:
                keys = {
                    "activations_checkpoint_granularity": recompute,
                    "micro_batch_tokens": tokens,
                    "mcpo": {"scoring_tokens": scoring},
                }
                plan = make_plan(changed(laid_out, {"model": keys}), question, num_gpus)
                if plan.fits:
                    yield plan
                if plan.hopeless or (plan.fits and tokens // 2 < config.model.data.max_length):
                    break


def budgets(config: RunConfig, question: Question) -> Iterator[tuple[int, int]]:
    """Yield token budgets of training and scoring: as configured, then halved together while a prompt fits."""
    data, model = question.data, config.model
    whole = max(data.tokens(1 + data.candidates), data.longest, model.data.max_prompt_length)
    trained = max(data.tokens(1 + model.mcpo.num_negatives), data.longest_trained, model.data.max_prompt_length)
    tokens, scoring = model.micro_batch_tokens, model.mcpo.scoring_tokens
    yield tokens, scoring
    while tokens // 2 >= trained or scoring // 2 >= whole:
        tokens = tokens // 2 if tokens // 2 >= trained else tokens
        scoring = scoring // 2 if scoring // 2 >= whole else scoring
        yield tokens, scoring


def _allowed(config: RunConfig, question: Question, num_gpus: int) -> bool:
    try:
        check_processes(config, num_gpus)
        check_architecture(config, question.architecture)
    except ConfigError:
        return False
    return True
