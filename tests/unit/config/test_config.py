# SPDX-License-Identifier: Apache-2.0
"""Every rule of the schema and of the tables, checked by the key and the value in its error."""

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


def refusal(changes: dict[str, object], world_size: int = 1) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        checked(changes, world_size)
    assert "\n" not in str(caught.value) and caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("section", "field", "table"),
    [(schema.Model, "attention_backend", {"auto", *BACKENDS}), (schema.Schedule, "name", DECAY_STYLES)],
)
def test_names_are_those_of_the_tables(section, field, table):
    assert set(get_args(section.model_fields[field].annotation)) == set(table)


@pytest.mark.parametrize(
    ("key", "table"),
    [("model.mcpo.objective", OBJECTIVES), ("model.mcpo.sampler", SAMPLERS), ("model.data.format", {AUTO, *FORMATS})],
)
def test_a_name_that_is_not_in_the_table(key, table):
    error = refusal({key: "none"})
    assert (error.where, error.got) == (key, "none")
    assert all(name in str(error.expected) for name in table)


def test_a_variant_with_parameters_of_its_own():
    mcpo = checked({"model.mcpo.objective": {"name": "dpo", "beta": 0.5}, "model.mcpo.sampler": "max"}).model.mcpo
    assert (mcpo.objective.name, mcpo.objective.parameters) == ("dpo", {"beta": 0.5})
    assert mcpo.model_dump(include={"objective", "sampler"}) == {
        "objective": {"name": "dpo", "beta": 0.5},
        "sampler": "max",
    }


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("model.mcpo.objective", {"name": "dpo", "betaa": 0.5}, "model.mcpo.objective.betaa"),
        ("model.mcpo.objective", {"name": "dpo", "beta": -1.0}, "model.mcpo.objective.beta"),
        ("model.mcpo.objective", {"beta": 0.5}, "model.mcpo.objective"),
        ("model.mcpo.objective", 5, "model.mcpo.objective.name"),
        ("model.mcpo.sampler", {"name": "mc_kernel", "replacement": True}, "model.mcpo.sampler.replacement"),
        ("model.mcpo.sampler", {"name": "max", "chain_steps": 2}, "model.mcpo.sampler.chain_steps"),
    ],
)
def test_parameters_that_a_variant_does_not_have(key, value, where):
    assert refusal({key: value}).where == where


def test_valid_values_are_kept():
    changes = {"model.mcpo.num_negatives": 3, "model.optim.lr": 1e-6, "model.data.drop_ranks": []}
    config = checked(changes)
    assert (config.model.mcpo.num_negatives, config.model.optim.lr, config.model.data.drop_ranks) == (3, 1e-6, [])


@pytest.mark.parametrize(
    ("given", "kept"), [("32", "32"), (32, "32"), ("32-true", "32"), ("bf16", "bf16"), ("bf16-mixed", "bf16")]
)
def test_names_of_precisions(given, kept):
    assert checked({"trainer.precision": given}).trainer.precision == kept


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("model.data.trainx", "did you mean model.data.train?"),
        ("model.mcpo.num_negative", "did you mean model.mcpo.num_negatives?"),
        ("trainer.mcpo.max_step", "did you mean trainer.mcpo.max_steps?"),
        ("modelx", "did you mean model?"),
        ("model.xyzzy", "remove it"),
    ],
)
def test_unknown_key(key, fix):
    error = refusal({key: 5})
    assert (error.where, error.got, error.fix) == (key, 5, fix)


def test_an_unknown_key_is_named_before_the_key_that_it_misspells():
    raw = mapping({"model.data.trainx": "x"})
    del raw["model"]["data"]["train"]
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    assert caught.value.where == "model.data.trainx"


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
    assert (caught.value.where, caught.value.got) == (key, None)


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
        ("model.fp8_recipe", "delayed", "'tensorwise' or 'blockwise'"),
        ("model.virtual_pipeline_model_parallel_size", 1, "greater than or equal to 2"),
        ("model.transformer_impl", "apex", "'auto', 'local' or 'transformer_engine'"),
        ("model.activations_checkpoint_granularity", "block", "'selective' or 'full'"),
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
    error = refusal({key: value})
    assert (error.where, error.got) == (key, repr(value))
    assert expected in str(error.expected)


def test_wrong_value_in_a_list():
    error = refusal({"model.data.drop_ranks": [3, 0]})
    assert (error.where, error.got) == ("model.data.drop_ranks.1", "0")


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


def test_changes_of_inner_sections_leave_the_rest():
    config = checked({"model.seed": 5})
    found = schema.changed(config, {"trainer": {"devices": 2}, "model": {"mcpo": {"beta": 0.5}}})
    assert (found.trainer.devices, found.model.mcpo.beta, found.model.seed) == (2, 0.5, 5)
    assert found.model.mcpo.sampler == config.model.mcpo.sampler and config.model.mcpo.beta != 0.5


def test_the_budget_in_seconds():
    assert checked({}).exp_manager.budget_seconds is None
    assert checked({"exp_manager.max_time_per_run": "01:02:03:04"}).exp_manager.budget_seconds == 93784.0


IN_BF16 = {"model.transformer_impl": "auto", "trainer.precision": "bf16"}
RULES = [
    ({"model.data.max_prompt_length": 2048, "model.data.max_length": 2048}, "model.data.max_prompt_length"),
    ({"model.mcpo.objective": "sft", "model.mcpo.num_negatives": 1}, "model.mcpo.num_negatives"),
    ({"model.mcpo.num_negatives": 0}, "model.mcpo.num_negatives"),
    ({"model.optim.lr": 1e-9, "model.optim.sched.min_lr": 1e-8}, "model.optim.sched.min_lr"),
    ({"model.mcpo.num_negatives": 4, "model.data.max_candidates": 3}, "model.mcpo.num_negatives"),
    (
        {"model.mcpo.sampler": "max", "model.mcpo.chain_steps": 2, "model.mcpo.chain_candidates": 2},
        "model.mcpo.chain_steps",
    ),
    ({"model.mcpo.chain_steps": 2}, "model.mcpo.chain_candidates"),
    (
        {"model.mcpo.chain_steps": 2, "model.mcpo.chain_candidates": 4, "model.data.max_candidates": 4},
        "model.mcpo.chain_candidates",
    ),
    ({"model.sequence_parallel": True}, "model.sequence_parallel"),
    ({"model.virtual_pipeline_model_parallel_size": 2}, "model.virtual_pipeline_model_parallel_size"),
    ({"model.fp8": "hybrid", "model.transformer_impl": "local", "trainer.precision": "bf16"}, "model.fp8"),
    ({"model.fp8": "e4m3", "model.transformer_impl": "transformer_engine", "trainer.precision": "32"}, "model.fp8"),
    ({"model.mcpo.scoring_fp8": True}, "model.mcpo.scoring_fp8"),
    (IN_BF16 | {"model.fp8": "hybrid", "model.mcpo.scoring_fp8": True}, "model.mcpo.scoring_fp8"),
    (IN_BF16 | {"model.mcpo.sampler": "random", "model.mcpo.scoring_fp8": True}, "model.mcpo.scoring_fp8"),
    ({"model.mcpo.sampler": "random", "model.mcpo.reuse_scoring": True}, "model.mcpo.reuse_scoring"),
    ({"model.mcpo.sampler": "random", "model.mcpo.scored_candidates": 2}, "model.mcpo.scored_candidates"),
    ({"model.mcpo.scored_candidates": 2, "model.mcpo.num_negatives": 3}, "model.mcpo.num_negatives"),
    (
        {"model.mcpo.scored_candidates": 2, "model.mcpo.chain_steps": 2, "model.mcpo.chain_candidates": 2},
        "model.mcpo.chain_candidates",
    ),
    (
        {
            "model.data.max_candidates": 2,
            "model.mcpo.scored_candidates": 9,
            "model.mcpo.chain_steps": 2,
            "model.mcpo.chain_candidates": 2,
        },
        "model.mcpo.chain_candidates",
    ),
    (IN_BF16 | {"model.mcpo.reuse_scoring": True, "model.mcpo.scoring_fp8": True}, "model.mcpo.reuse_scoring"),
]


@pytest.mark.parametrize(("changes", "where"), RULES)
def test_impossible_combination(changes, where):
    error = refusal(changes)
    assert error.where == where
    assert where not in changes or error.got == changes[where]


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


LAYOUT = "model.tensor_model_parallel_size x model.pipeline_model_parallel_size"
PROCESSES = [
    ({"trainer.devices": 4}, 2, "trainer.devices", "1 nodes x 4 devices"),
    ({"model.tensor_model_parallel_size": 2, "model.pipeline_model_parallel_size": 2}, 2, LAYOUT, "2 x 2"),
    ({"model.global_batch_size": 3}, 4, "model.global_batch_size", 3),
]


@pytest.mark.parametrize(("changes", "world_size", "where", "got"), PROCESSES)
def test_processes(changes, world_size, where, got):
    error = refusal(changes, world_size)
    assert (error.where, error.got) == (where, got)


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
    ("tensor", "stages", "virtual", "key", "got"),
    [
        (16, 1, None, "model.tensor_model_parallel_size", 16),
        (8, 1, None, "model.tensor_model_parallel_size", 8),
        (1, 4, None, "model.pipeline_model_parallel_size", 4),
        (1, 2, 2, "model.pipeline_model_parallel_size x model.virtual_pipeline_model_parallel_size", 4),
    ],
)
def test_layout_does_not_divide_the_model(tensor, stages, virtual, key, got):
    changes = {
        "model.tensor_model_parallel_size": tensor,
        "model.pipeline_model_parallel_size": stages,
        "model.virtual_pipeline_model_parallel_size": virtual,
    }
    with pytest.raises(ConfigError) as caught:
        check_architecture(checked(changes, tensor * stages), ARCHITECTURE)
    assert (caught.value.where, caught.value.got) == (key, got)


@pytest.mark.parametrize(
    ("shape", "key"),
    [({"max_positions": 2047}, "max_position_embeddings"), ({"sliding_window": 2047}, "sliding_window")],
)
def test_sequences_longer_than_the_model(shape, key):
    architecture = SimpleNamespace(**vars(ARCHITECTURE) | shape)
    with pytest.raises(ConfigError) as caught:
        check_architecture(checked({"model.data.max_length": 2048}), architecture)
    assert (caught.value.where, caught.value.got) == ("model.data.max_length", 2048)
    assert key in caught.value.what


@pytest.mark.parametrize(("tensor", "stages", "world_size"), [(1, 1, 1), (2, 1, 2), (4, 3, 12), (2, 6, 12)])
def test_layout_that_divides_the_model(tensor, stages, world_size):
    changes = {"model.tensor_model_parallel_size": tensor, "model.pipeline_model_parallel_size": stages}
    assert check_architecture(checked(changes, world_size), ARCHITECTURE) is None
