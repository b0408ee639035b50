# SPDX-License-Identifier: Apache-2.0
"""Every rule of the schema, with the key, the value and the cure that its message names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest

from nemo_mcpo.config import check_architecture, parse_config, schema
from nemo_mcpo.data.formats import AUTO, FORMATS
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.optimizer import DECAY_STYLES
from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.sampling import SAMPLERS
from nemo_mcpo.trees.backends import BACKENDS
from tests.support.configs import checked, mapping

ARCHITECTURE = SimpleNamespace(
    num_attention_heads=8,
    num_query_groups=4,
    ffn_hidden_size=96,
    padded_vocab_size=1280,
    num_layers=6,
    max_positions=2048,
    sliding_window=None,
)


def refusal(changes: dict[str, object], world_size: int = 1) -> str:
    with pytest.raises(ConfigError) as caught:
        checked(changes, world_size)
    message = str(caught.value)
    assert "\n" not in message
    assert ". Cure: " in message
    return message


@pytest.mark.parametrize(
    ("section", "field", "table"),
    [
        (schema.MCPO, "objective", OBJECTIVES),
        (schema.MCPO, "sampler", SAMPLERS),
        (schema.Model, "attention_backend", {"auto", *BACKENDS}),
        (schema.Data, "format", {AUTO, *FORMATS}),
        (schema.Schedule, "name", DECAY_STYLES),
    ],
)
def test_names_are_those_of_the_tables(section, field, table):
    assert set(get_args(section.model_fields[field].annotation)) == set(table)


def test_a_good_configuration_is_kept_as_it_is():
    changes = {"model.mcpo.num_negatives": 3, "model.optim.lr": 1e-6, "model.data.drop_ranks": []}
    config = checked(changes)
    assert (config.model.mcpo.num_negatives, config.model.optim.lr, config.model.data.drop_ranks) == (3, 1e-6, [])


@pytest.mark.parametrize(
    ("given", "kept"), [("32", "32"), (32, "32"), ("32-true", "32"), ("bf16", "bf16"), ("bf16-mixed", "bf16")]
)
def test_names_of_precisions(given, kept):
    assert checked({"trainer.precision": given}).trainer.precision == kept


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        ("model.data.trainx", "did you mean model.data.train?"),
        ("model.mcpo.num_negative", "did you mean model.mcpo.num_negatives?"),
        ("trainer.mcpo.max_step", "did you mean trainer.mcpo.max_steps?"),
        ("modelx", "did you mean model?"),
        ("model.xyzzy", "Cure: remove it."),
    ],
)
def test_unknown_key(key, cure):
    message = refusal({key: 5})
    assert message.startswith(f"{key}: unknown key (got 5, expected one of: ")
    assert message.endswith(cure)


def test_an_unknown_key_is_named_before_the_key_that_it_misspells():
    raw = mapping({"model.data.trainx": "x"})
    del raw["model"]["data"]["train"]
    with pytest.raises(ConfigError, match=r"^model\.data\.trainx: unknown key"):
        parse_config(raw)


@pytest.mark.parametrize("key", ["model.data.train", "pretrained_checkpoint.restore_from_path", "model", "trainer"])
def test_missing_key(key):
    raw = mapping()
    *sections, name = key.split(".")
    node = raw
    for section in sections:
        node = node[section]
    del node[name]
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    assert str(caught.value) == f"{key}: missing key. Cure: set {key}=… on the command line or in the YAML."


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.global_batch_size", 0, "greater than or equal to 1"),
        ("model.global_batch_size", "16", "a valid integer"),
        ("model.global_batch_size", 16.5, "a valid integer"),
        ("model.seed", -1, "greater than or equal to 0"),
        ("model.micro_batch_tokens", None, "a valid integer"),
        ("model.sequence_parallel", 1, "a valid boolean"),
        ("model.fp8", "e5m2", "'hybrid' or 'e4m3'"),
        ("model.virtual_pipeline_model_parallel_size", 1, "greater than or equal to 2"),
        ("model.transformer_impl", "apex", "'auto', 'local' or 'transformer_engine'"),
        ("model.activations_checkpoint_granularity", "block", "'selective' or 'full'"),
        ("model.mcpo.objective", "ipo", "'mcpo', 'dpo' or 'sft'"),
        ("model.mcpo.beta", 0.0, "greater than 0"),
        ("model.mcpo.beta", float("nan"), "a finite number"),
        ("model.mcpo.chain_steps", 0, "greater than or equal to 1"),
        ("model.optim.name", "sgd", "'adamw'"),
        ("model.optim.lr", "fast", "a valid number"),
        ("model.optim.lr", float("inf"), "a finite number"),
        ("model.optim.betas", [0.9], "at least 2 items"),
        ("model.optim.betas", [0.9, 0.9, 0.9], "at most 2 items"),
        ("model.optim.sched.name", "Cosine", "'constant', 'CosineAnnealing'"),
        ("model.data.train", 3, "a valid string"),
        ("model.data.format", "csv", "'hh', 'sharegpt', 'jsonl' or 'ultrafeedback'"),
        ("trainer.devices", "all", "'auto'"),
        ("trainer.accelerator", "tpu", "'auto', 'cpu' or 'gpu'"),
        ("trainer.precision", "fp16", "'32' or 'bf16'"),
        ("trainer.mcpo.max_steps", -2, "greater than or equal to -1"),
        ("trainer.mcpo.keep_last", 0, "greater than or equal to 1"),
        ("trainer.mcpo.gradient_clip_val", -1.0, "greater than or equal to 0"),
        ("trainer.mcpo.limit_val_batches", 1.5, "less than or equal to 1"),
        ("trainer.mcpo.limit_val_batches", 0, "greater than or equal to 1"),
        ("trainer.mcpo.monitor", "loss", "'val_loss'"),
        ("exp_manager.resume_if_exists", "yes", "a valid boolean"),
        ("exp_manager.max_time_per_run", "4h", "match pattern"),
    ],
)
def test_wrong_value(key, value, expected):
    message = refusal({key: value})
    start, end = f"{key}: not a valid value (got {value!r}, expected ", f". Cure: change {key}."
    assert message.startswith(start) and message.endswith(end)
    assert expected in message.removeprefix(start)


def test_wrong_value_in_a_list():
    assert refusal({"model.data.drop_ranks": [3, 0]}) == (
        "model.data.drop_ranks.1: not a valid value (got 0, expected greater than or equal to 1). "
        "Cure: change model.data.drop_ranks.1."
    )


def test_settings_by_their_keys():
    config = checked({"model.seed": 5})
    mcpo = {f"model.mcpo.{name}": value for name, value in config.model.mcpo.model_dump().items()}
    assert schema.settings_of(config, "model.seed", "model.mcpo") == {"model.seed": 5} | mcpo
    del mcpo["model.mcpo.beta"]
    assert schema.settings_of(config, "model.mcpo", without={"model.mcpo.beta"}) == mcpo
    found = schema.settings_of(config, "trainer", without={"trainer.mcpo", "trainer.devices"})
    assert "trainer.precision" in found and not {"trainer.devices", "trainer.mcpo.max_steps"} & found.keys()
    found = schema.settings_of(config, "trainer.mcpo.max_steps", without={"trainer.mcpo"})
    assert found == {"trainer.mcpo.max_steps": config.trainer.mcpo.max_steps}


def test_the_budget_in_seconds():
    assert checked({}).exp_manager.budget_seconds is None
    assert checked({"exp_manager.max_time_per_run": "01:02:03:04"}).exp_manager.budget_seconds == 93784.0


IN_BF16 = {"model.transformer_impl": "auto", "trainer.precision": "bf16"}
RULES = [
    (
        {"model.data.max_prompt_length": 2048, "model.data.max_length": 2048},
        "model.data.max_prompt_length: no room is left for an answer "
        "(got 2048, expected less than model.data.max_length=2048). "
        "Cure: raise max_length or lower max_prompt_length.",
    ),
    (
        {"model.mcpo.objective": "sft", "model.mcpo.num_negatives": 1},
        "model.mcpo.num_negatives: the sft objective has no negatives (got 1, expected 0). "
        "Cure: set model.mcpo.num_negatives=0.",
    ),
    (
        {"model.mcpo.num_negatives": 0},
        "model.mcpo.num_negatives: the mcpo objective needs negatives (got 0, expected at least 1). "
        "Cure: set model.mcpo.num_negatives=1.",
    ),
    (
        {"model.optim.lr": 1e-9, "model.optim.sched.min_lr": 1e-8},
        "model.optim.sched.min_lr: the schedule would end above its peak "
        "(got 1e-08, expected at most model.optim.lr=1e-09). Cure: lower min_lr or raise lr.",
    ),
    (
        {"model.mcpo.num_negatives": 4, "model.data.max_candidates": 3},
        "model.mcpo.num_negatives: more negatives than candidates "
        "(got 4, expected at most model.data.max_candidates=3). "
        "Cure: lower num_negatives, raise max_candidates, or set model.mcpo.replacement=true.",
    ),
    (
        {"model.mcpo.sampler": "max", "model.mcpo.chain_steps": 2, "model.mcpo.chain_candidates": 2},
        "model.mcpo.chain_steps: only the mc_kernel sampler runs chains (got 2, expected 1 with sampler max). "
        "Cure: set model.mcpo.sampler=mc_kernel, or chain_steps=1 and chain_candidates=null.",
    ),
    (
        {"model.mcpo.chain_steps": 2},
        "model.mcpo.chain_candidates: one step over the whole pool is already exact, a second changes nothing "
        "(expected fewer than the candidates of a prompt). "
        "Cure: set chain_candidates below the pool's size, or chain_steps=1.",
    ),
    (
        {"model.mcpo.chain_steps": 2, "model.mcpo.chain_candidates": 4, "model.data.max_candidates": 4},
        "model.mcpo.chain_candidates: one step over the whole pool is already exact, a second changes nothing "
        "(got 4, expected fewer than the candidates of a prompt). "
        "Cure: set chain_candidates below the pool's size, or chain_steps=1.",
    ),
    (
        {"model.sequence_parallel": True},
        "model.sequence_parallel: sequence parallelism splits over tensor-parallel ranks, and there is one "
        "(got True). "
        "Cure: set model.tensor_model_parallel_size > 1 or model.sequence_parallel=false.",
    ),
    (
        {"model.virtual_pipeline_model_parallel_size": 2},
        "model.virtual_pipeline_model_parallel_size: interleaving needs a pipeline "
        "(got 2, expected null with model.pipeline_model_parallel_size=1). "
        "Cure: set model.pipeline_model_parallel_size > 1 or leave it null.",
    ),
    (
        {"model.fp8": "hybrid", "model.transformer_impl": "local", "trainer.precision": "bf16"},
        "model.fp8: FP8 needs Transformer Engine's layers in bf16 (got hybrid). "
        "Cure: set model.transformer_impl=transformer_engine and trainer.precision=bf16, or model.fp8=null.",
    ),
    (
        {"model.fp8": "e4m3", "model.transformer_impl": "transformer_engine", "trainer.precision": "32"},
        "model.fp8: FP8 needs Transformer Engine's layers in bf16 (got e4m3). "
        "Cure: set model.transformer_impl=transformer_engine and trainer.precision=bf16, or model.fp8=null.",
    ),
    (
        {"model.mcpo.scoring_fp8": True},
        "model.mcpo.scoring_fp8: FP8 needs Transformer Engine's layers in bf16 (got True). Cure: set "
        "model.transformer_impl=transformer_engine and trainer.precision=bf16, or model.mcpo.scoring_fp8=false.",
    ),
    (
        IN_BF16 | {"model.fp8": "hybrid", "model.fp8_recipe": "delayed"},
        "model.fp8_recipe: delayed scaling takes its scales from earlier passes: log-probs would depend on what was "
        "scored before, and the reference is scored before there is any (got delayed, expected tensorwise or "
        "blockwise, whose scales are of the tensor at hand). Cure: set model.fp8_recipe=tensorwise.",
    ),
    (
        IN_BF16 | {"model.fp8": "hybrid", "model.mcpo.scoring_fp8": True},
        "model.mcpo.scoring_fp8: everything is in FP8 already (got True, expected false with model.fp8). "
        "Cure: set model.mcpo.scoring_fp8=false, or model.fp8=null to train in bf16.",
    ),
    (
        IN_BF16 | {"model.mcpo.sampler": "random", "model.mcpo.scoring_fp8": True},
        "model.mcpo.scoring_fp8: there is no scoring pass (got True, expected false with sampler random and objective "
        "mcpo). Cure: set model.mcpo.scoring_fp8=false.",
    ),
    (
        IN_BF16 | {"model.mcpo.reuse_scoring": True, "model.mcpo.scoring_fp8": True},
        "model.mcpo.reuse_scoring: what was scored in FP8 is not what training in bf16 would compute (got True, "
        "expected auto or false with model.mcpo.scoring_fp8). "
        "Cure: set model.mcpo.reuse_scoring=auto, or model.mcpo.scoring_fp8=false.",
    ),
]


@pytest.mark.parametrize(("changes", "message"), RULES)
def test_impossible_combination(changes, message):
    assert refusal(changes) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"model.mcpo.objective": "sft", "model.mcpo.num_negatives": 0},
        {"model.mcpo.num_negatives": 4, "model.data.max_candidates": 3, "model.mcpo.replacement": True},
        {"model.mcpo.num_negatives": 4, "model.data.max_candidates": 3, "model.mcpo.include_preferred": True},
        {"model.mcpo.chain_steps": 3, "model.mcpo.chain_candidates": 2},
        {"model.mcpo.chain_steps": 1, "model.mcpo.chain_candidates": 2},
        IN_BF16 | {"model.fp8": "hybrid"},
        IN_BF16 | {"model.fp8": "e4m3", "model.fp8_recipe": "blockwise"},
        IN_BF16 | {"model.mcpo.scoring_fp8": True},
    ],
)
def test_possible_combination(changes):
    assert checked(changes).model_dump() == mapping(changes)


PROCESSES = [
    (
        {"trainer.devices": 4},
        2,
        "trainer.devices: the launcher started another number of processes "
        "(got 1 nodes x 4 devices, expected 2 processes). "
        "Cure: launch with torchrun --nproc-per-node=4, or set trainer.devices=auto.",
    ),
    (
        {"model.tensor_model_parallel_size": 2, "model.pipeline_model_parallel_size": 2},
        2,
        "model.tensor_model_parallel_size x model.pipeline_model_parallel_size: "
        "the processes do not divide into model replicas (got 2 x 2, expected a divisor of 2 processes). "
        "Cure: launch a multiple of 4 processes (sbatch --nodes=…, torchrun --nproc-per-node=…), or lower the sizes.",
    ),
    (
        {"model.global_batch_size": 3},
        4,
        "model.global_batch_size: some data-parallel ranks would have no prompt "
        "(got 3, expected at least 4, one a replica). Cure: raise global_batch_size or use fewer processes.",
    ),
]


@pytest.mark.parametrize(("changes", "world_size", "message"), PROCESSES)
def test_processes(changes, world_size, message):
    assert refusal(changes, world_size) == message


@pytest.mark.parametrize(
    ("changes", "world_size"),
    [
        ({"trainer.devices": 2, "trainer.num_nodes": 2}, 4),
        ({"model.tensor_model_parallel_size": 2, "model.sequence_parallel": True}, 4),
        ({"model.pipeline_model_parallel_size": 2, "model.virtual_pipeline_model_parallel_size": 2}, 2),
        ({"model.global_batch_size": 4}, 4),
    ],
)
def test_processes_that_fit(changes, world_size):
    assert checked(changes, world_size).model_dump() == mapping(changes)


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        (
            {"model.tensor_model_parallel_size": 16},
            16,
            "model.tensor_model_parallel_size: does not divide the model's 8 attention heads (got 16)",
        ),
        (
            {"model.tensor_model_parallel_size": 8},
            8,
            "model.tensor_model_parallel_size: does not divide the model's 4 key/value heads (got 8)",
        ),
        (
            {"model.pipeline_model_parallel_size": 4},
            4,
            "model.pipeline_model_parallel_size: does not divide the model's 6 layers (got 4)",
        ),
        (
            {"model.pipeline_model_parallel_size": 2, "model.virtual_pipeline_model_parallel_size": 2},
            2,
            "model.pipeline_model_parallel_size x model.virtual_pipeline_model_parallel_size: "
            "does not divide the model's 6 layers (got 4)",
        ),
    ],
)
def test_layout_does_not_divide_the_model(changes, world_size, message):
    with pytest.raises(ConfigError) as caught:
        check_architecture(checked(changes, world_size), ARCHITECTURE)
    assert str(caught.value) == f"{message}. Cure: choose a size that divides it."


@pytest.mark.parametrize(
    ("shape", "key"),
    [({"max_positions": 2047}, "max_position_embeddings"), ({"sliding_window": 2047}, "sliding_window")],
)
def test_sequences_longer_than_the_model(shape, key):
    architecture = SimpleNamespace(**vars(ARCHITECTURE) | shape)
    with pytest.raises(ConfigError) as caught:
        check_architecture(checked({"model.data.max_length": 2048}), architecture)
    assert str(caught.value) == (
        f"model.data.max_length: longer than the model's {key} (got 2048, expected at most 2047). "
        "Cure: set model.data.max_length=2047 or lower."
    )


@pytest.mark.parametrize(("tensor", "stages", "world_size"), [(1, 1, 1), (2, 1, 2), (4, 3, 12), (2, 6, 12)])
def test_layout_that_divides_the_model(tensor, stages, world_size):
    changes = {"model.tensor_model_parallel_size": tensor, "model.pipeline_model_parallel_size": stages}
    assert check_architecture(checked(changes, world_size), ARCHITECTURE) is None
