# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a log directory, and whether each one is still complete.

A finished checkpoint records the name and size of each of its files.
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
    """Record the files of a finished checkpoint."""
    (checkpoint / CONTENTS).write_text(json.dumps(file_sizes(checkpoint, without=CONTENTS), indent=1))


def damage(checkpoint: Path) -> str | None:
    """Describe the first file that is missing, unreadable or of the wrong size; return None if there is none."""
    try:
        noted: dict[str, int] = json.loads((checkpoint / CONTENTS).read_text())
        saved_step(checkpoint)
    except (OSError, ValueError, TypeError, KeyError) as problem:
        return f"{problem!r}"
    return first_damage(checkpoint, noted)


def saved_step(checkpoint: Path) -> int:
    """Return the number of optimizer steps after which a checkpoint was written."""
    return json.loads((checkpoint / CHECKPOINT_MARK).read_text())["step"]


def finished_checkpoints(log_dir: Path) -> list[Path]:
    """Return the directories in which a save finished, damaged or not."""
    return [mark.parent for mark in log_dir.glob(f"checkpoints/*/{CHECKPOINT_MARK}") if mark.parent.suffix == ""]


def whole_checkpoints(log_dir: Path) -> list[Path]:
    """Return the undamaged checkpoints, ordered by step."""
    return sorted((path for path in finished_checkpoints(log_dir) if damage(path) is None), key=saved_step)


def newest_checkpoint(log_dir: Path) -> Path | None:
    """Return the newest undamaged checkpoint, or None if no save has finished; log a warning for each damaged one.

    Raises:
        CheckpointError: every checkpoint is damaged.
    """
    whole, finished = whole_checkpoints(log_dir), finished_checkpoints(log_dir)
    for path in sorted({*finished} - {*whole}):
        logger.warning("%s is damaged (%s); using the newest undamaged checkpoint", path, damage(path))
    if finished and not whole:
        raise CheckpointError(
            "every checkpoint is damaged",
            where=str(log_dir / "checkpoints"),
            fix="restore the files, or delete the directory to start from the initial weights",
        )
    return whole[-1] if whole else None
