# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint still holds what was written: the name and size of every file, noted when it was finished.

A file system that lost power, a copy that was cut short and a clean-up that went too far all change names or sizes.
"""

from __future__ import annotations

import json
from pathlib import Path

CONTENTS = "contents.json"


def note_contents(checkpoint: Path) -> None:
    """Write down what is in a finished checkpoint."""
    (checkpoint / CONTENTS).write_text(json.dumps(_sizes(checkpoint), indent=1))


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the first file that is missing or has another size; None for a whole checkpoint."""
    try:
        noted: dict[str, int] = json.loads((checkpoint / CONTENTS).read_text())
    except (OSError, ValueError) as problem:
        return f"{CONTENTS}: {problem}"
    found = _sizes(checkpoint)
    for name, size in noted.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]:,} bytes instead of {size:,}"
    return None


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (file for file in sorted(checkpoint.rglob("*")) if file.is_file() and file.name != CONTENTS)
    return {str(file.relative_to(checkpoint)): file.stat().st_size for file in files}
