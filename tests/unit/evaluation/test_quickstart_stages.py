# SPDX-License-Identifier: Apache-2.0
"""scripts/quickstart_stages.py: what is skipped, what is rerun, and what is printed when a stage fails."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from nemo_mcpo.platform.children import start_child

ROOT = Path(__file__).parents[3]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("quickstart_stages")
    monkeypatch.setattr(module, "run_stages", partial(module.run_stages, start=start_child))
    return module


def appending(stages: ModuleType, folder: Path, name: str, text: str = "x", config: Path | None = None):
    """A stage that appends to a file, so that the file shows how often it ran."""
    program = f"open({str(folder / name)!r}, 'a').write({text!r})"
    return stages.Stage(name, [sys.executable, "-c", program], [folder / name], config=config)


def test_finished_stages_are_skipped_and_keep_their_seconds(stages, tmp_path):
    pipeline = [appending(stages, tmp_path, name) for name in "ab"]
    first = stages.run_stages(pipeline, tmp_path / "logs")
    assert stages.run_stages(pipeline, tmp_path / "logs") == first
    assert [(tmp_path / name).read_text() for name in "ab"] == ["x", "x"]


def test_an_interrupted_stage_runs_again_on_what_it_left(stages, tmp_path):
    stage = appending(stages, tmp_path, "a")
    stages.run_stages([stage], tmp_path / "logs")
    (tmp_path / "logs" / "1.json").write_text(json.dumps({"recipe": stage.recipe}))
    stages.run_stages([stage], tmp_path / "logs")
    assert (tmp_path / "a").read_text() == "xx"


def test_another_recipe_reruns_this_and_later_stages(stages, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("lr: 1")
    names = {"a": None, "b": config, "c": None}
    pipeline = [appending(stages, tmp_path, name, config=path) for name, path in names.items()]
    stages.run_stages(pipeline, tmp_path / "logs")
    (tmp_path / "a").write_text("kept")
    config.write_text("lr: 2")
    stages.run_stages(pipeline, tmp_path / "logs")
    assert [(tmp_path / name).read_text() for name in names] == ["kept", "x", "x"]


def test_a_failing_stage_shows_its_log_and_a_fix(stages, tmp_path, capsys):
    good, after = (appending(stages, tmp_path, name) for name in ("good", "after"))
    bad = stages.Stage("bad", [sys.executable, "-c", "print('no room'); raise SystemExit(3)"], [])
    with pytest.raises(stages.StageError, match="stage failed: bad") as caught:
        stages.run_stages([good, bad, after], tmp_path / "logs")
    assert (str(caught.value.where), caught.value.got) == (str(tmp_path / "logs" / "2.log"), "exit 3")
    assert "read the log" in caught.value.fix
    assert "no room" in capsys.readouterr().err
    assert not (tmp_path / "after").exists()


def test_a_launchers_lines_do_not_hide_the_error(stages, tmp_path, capsys):
    program = "print('warning'); print('error: no room'); print('launcher\\n' * 50); raise SystemExit(1)"
    with pytest.raises(stages.StageError):
        stages.run_stages([stages.Stage("bad", [sys.executable, "-c", program], [])], tmp_path / "logs")
    shown = capsys.readouterr().err
    assert "error: no room" in shown
    assert "warning" not in shown
