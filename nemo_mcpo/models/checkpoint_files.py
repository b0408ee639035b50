# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a log directory, and whether each still holds what was written.

When a checkpoint is finished, the name and size of every file are noted.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.storage.manifests import file_sizes, first_damage

logger = logging.getLogger(__name__)
CHECKPOINT_MARK = "trainer_state.json"
CONTENTS = "contents.json"


def note_contents(checkpoint: Path) -> None:
    """Write down what is in a finished checkpoint."""
    (checkpoint / CONTENTS).write_text(json.dumps(file_sizes(checkpoint, without=CONTENTS), indent=1))


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the first file that is missing, of another size or unreadable; None if all is well."""
    try:
        noted: dict[str, int] = json.loads((checkpoint / CONTENTS).read_text())
        saved_step(checkpoint)
    except (OSError, ValueError, TypeError, KeyError) as problem:
        return f"{problem!r}"
    return first_damage(checkpoint, noted)


def saved_step(checkpoint: Path) -> int:
    """The number of optimizer steps in a whole checkpoint."""
    return json.loads((checkpoint / CHECKPOINT_MARK).read_text())["step"]


def finished_checkpoints(log_dir: Path) -> list[Path]:
    """Directories that a save has finished, whatever became of them since."""
    return [mark.parent for mark in log_dir.glob(f"checkpoints/*/{CHECKPOINT_MARK}") if mark.parent.suffix == ""]


def whole_checkpoints(log_dir: Path) -> list[Path]:
    """Those that are not damaged, oldest first by the step in their state."""
    return sorted((path for path in finished_checkpoints(log_dir) if damage(path) is None), key=saved_step)


def newest_checkpoint(log_dir: Path) -> Path | None:
    """The newest whole checkpoint; None when there is none at all. Warns of those that are damaged.

    Raises:
        CheckpointError: all are damaged.
    """
    whole, finished = whole_checkpoints(log_dir), finished_checkpoints(log_dir)
    for path in sorted({*finished} - {*whole}):
        logger.warning("%s is damaged (%s): the newest whole checkpoint is used", path, damage(path))
    if finished and not whole:
        raise CheckpointError(
            "no checkpoint is whole",
            where=str(log_dir / "checkpoints"),
            fix="restore the files, or remove the directory to start from the initial weights",
        )
    return whole[-1] if whole else None
