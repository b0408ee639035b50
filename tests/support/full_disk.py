# SPDX-License-Identifier: Apache-2.0
"""A function that fails as one does that writes to a full disk."""

from __future__ import annotations

import errno
import os


def full_disk(*arguments: object, **named: object) -> None:
    """Replace a function that writes."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
