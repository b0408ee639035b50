# SPDX-License-Identifier: Apache-2.0
"""``<log_dir>/heartbeat.json``: what a run is doing and when it last made progress, for external monitoring.

{"time": 1795290000.0, "doing": "train", "done": 120, "of": 2800, "host": "node07", "job": "4711", "restart": "1"}
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from nemo_mcpo.errors import StorageError
from nemo_mcpo.platform.distributed import is_rank_zero
from nemo_mcpo.storage.atomic import write_whole

SECONDS = 1.0
"""Minimum time between two writes."""


class Heartbeat:
    """Writes the file on rank 0; ignores a full or missing disk, which stops the run where it matters."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "heartbeat.json"
        self._doing, self._at = "", 0.0

    def beat(self, doing: str, done: int, of: int) -> None:
        """Report that ``done`` of ``of`` prompts (reference) or steps (train) are finished."""
        now = time.time()
        if not is_rank_zero() or (doing == self._doing and done < of and now - self._at < SECONDS):
            return
        self._doing, self._at = doing, now
        job, restart = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT")
        facts = {"time": now, "doing": doing, "done": done, "of": of, "host": socket.gethostname()}
        content = json.dumps(facts | {"job": job, "restart": restart}).encode()
        with contextlib.suppress(StorageError):
            write_whole(self.path, [content], private=False, durable=False)
