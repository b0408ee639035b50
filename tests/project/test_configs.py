# SPDX-License-Identifier: Apache-2.0
"""Every YAML file loads, overlays are short, every key has one default and a reader in the code, and a wrong key is
reported before anything heavy is imported."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel

from nemo_mcpo.config import OnlineRunConfig, RunConfig, schema
from tests.support.configs import CONF, MANDATORY, ROOT, compose, compose_online

BASE = "gpt_mcpo"
ONLINE = "onmcpo"
DEFAULTS = {BASE: "", "gpt_onmcpo": "", "trtllm": "rollouts.server judge.server"}
"""Files with defaults of keys, and the sections that include them (none: the root)."""
MAX_OVERLAY_LINES = 20
OVERLAYS = sorted(path for path in CONF.rglob("*.yaml") if path.stem not in DEFAULTS)
RUNS = sorted(path.stem for path in CONF.glob("*.yaml"))
GROUPS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
PROCESSES = 8
"""Enough for the largest layout in the files; smaller layouts run as several replicas."""


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every leaf of the schema."""
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, schema.Section):
            yield from keys(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


KEYS = list(keys(OnlineRunConfig))


@pytest.mark.parametrize("name", RUNS)
def test_every_run_loads(name):
    if ONLINE in name:
        config = compose_online("judge.server.model=judge", name=name)
    else:
        config = compose(name=name, world_size=PROCESSES)
    assert isinstance(config, RunConfig)
    assert config.pretrained_checkpoint.restore_from_path == MANDATORY[1].split("=")[1]


def settings_of_group(group: str) -> dict[str, object]:
    """The keys of a file in ``model/`` and of those that it builds on, without sections."""
    overlay = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{group}.yaml"))
    inherited = [settings_of_group(name) for name in overlay.pop("defaults", [])]
    own = {key: value for key, value in overlay.items() if not isinstance(value, dict)}
    return {key: value for settings in (*inherited, own) for key, value in settings.items()}


@pytest.mark.parametrize("group", GROUPS)
def test_every_model_group_loads(group):
    config = compose(f"model={group}", name=BASE, world_size=PROCESSES).model.model_dump()
    expected = settings_of_group(group)
    assert expected and {key: config[key] for key in expected} == expected


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_overlays_are_short(path):
    assert len(path.read_text().splitlines()) <= MAX_OVERLAY_LINES


def defaults() -> list[str]:
    """Return the dotted key of every default, once per file that sets it."""

    def leaves(node: object, prefix: str) -> Iterator[str]:
        if isinstance(node, dict) and node:
            for name, value in node.items():
                yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix.removesuffix(".")

    found = []
    for path in CONF.rglob("*.yaml"):
        if path.stem in DEFAULTS:
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            content.pop("defaults", None)
            for section in DEFAULTS[path.stem].split() or [""]:
                found += leaves(content, f"{section}." if section else "")
    return found


def test_every_key_has_one_default():
    # An online run has its own name, and its judge reads two answers.
    assert sorted(set(KEYS)) == sorted(set(defaults()))
    assert [key for key in KEYS if defaults().count(key) != 1] == ["exp_manager.name", "judge.server.max_seq_len"]


@pytest.mark.parametrize("name", [BASE, "gpt_onmcpo"])
def test_the_base_files_explain_their_keys(name):
    lines = [line for line in (CONF / f"{name}.yaml").read_text().splitlines() if not line.startswith("#")]
    leaves = [line for line in lines if ":" in line and not line.rstrip().endswith(":")]
    assert len([line for line in leaves if "  # " in line]) >= len(leaves) // 2


def attributes_read() -> set[str]:
    """Return every attribute that the code reads, and every string in a call of ``model_dump(include=…)``."""
    found: set[str] = set()
    files = [file for folder in ("nemo_mcpo", "examples") for file in (ROOT / folder).rglob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "model_dump":
                found |= {text.value for text in ast.walk(node) if isinstance(text, ast.Constant)}
    return found


def test_every_key_has_a_reader():
    read = attributes_read()
    assert [key for key in KEYS if key.split(".")[-1] not in read] == []


def test_no_key_has_a_default_in_the_schema():
    def sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield section
        for field in section.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from sections(field.annotation)

    optional = [
        f"{section.__name__}.{name}"
        for section in sections(OnlineRunConfig)
        for name, field in section.model_fields.items()
        if not field.is_required()
    ]
    assert optional == []


WRONG = """
import sys
sys.argv = ["train_gpt_mcpo.py", *{argv!r}]
import runpy
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as done:
    heavy = sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "megatron", "nemo", "transformers"}})
    print(done.code, *heavy)
    raise
"""


def refused(script: str, *argv: str) -> tuple[str, list[str]]:
    """Return the error of a command that ends with code 2, and the heavy packages that it had imported by then."""
    done = subprocess.run(
        [sys.executable, "-c", WRONG.format(argv=[*MANDATORY, *argv], script=str(ROOT / "examples" / script))],
        cwd=Path(ROOT),
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    code, *heavy = done.stdout.split()
    assert (done.returncode, code) == (2, "2")
    assert done.stderr.count("\n") == 1
    return done.stderr, heavy


@pytest.mark.parametrize(
    ("script", "name", "override"),
    [
        ("train_gpt_mcpo.py", "tiny_cpu", "model.data.trainx=x"),
        ("train_gpt_mcpo.py", "tiny_cpu", "model.mcpo.beta=-1"),
        ("train_gpt_mcpo.py", "tiny_cpu", "model.optim.sched.min_lr=1.0"),
        ("train_gpt_mcpo.py", "tiny_cpu", "trainer.devices=7"),
        ("train_gpt_onmcpo.py", "quickstart_onmcpo", "rollouts.temperature=1"),
    ],
)
def test_a_wrong_key_is_reported_before_torch_is_imported(script, name, override):
    error, heavy = refused(script, "--config-name", name, override)
    assert error.startswith(f"error: {override.split('=')[0]}: ")
    assert heavy == []  # importing them takes seconds


def test_the_device_is_selected_before_libraries_that_may_ask_for_cuda_are_imported():
    stage = ("--stage", "export", "--config-name", "quickstart_onmcpo", "trainer.accelerator=gpu")
    error, heavy = refused("train_gpt_onmcpo.py", *stage)
    assert error.startswith("error: trainer.accelerator: ")
    assert heavy == ["torch"]  # which says why it has no GPU
