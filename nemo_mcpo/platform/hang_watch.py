# SPDX-License-Identifier: Apache-2.0
"""Detects a launch that hangs and names the culprit: a thread on every rank watches the progress of the main thread.

If the main thread of a rank has not moved for the timeout, the rank reads what all ranks reported. The culprit sends
no heartbeat (killed, stopped, or its node is gone), or is still at work, or is outside of any collective while the
others wait inside one. (A rank that waits for its GPU is at the line that asked for a value.)
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import FrameType

import torch.distributed as dist

from nemo_mcpo.platform.command import COLLECTIVES, mark_failure

BEAT_SECONDS = 5.0
_PACKAGE, _CHECKPOINTS = f"{os.sep}nemo_mcpo{os.sep}", os.path.join(COLLECTIVES, "checkpoint")


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat: what a rank reports about itself.

    Attributes:
        at: when the rank reported, Unix seconds.
        moved: when its main thread was last seen to move, Unix seconds.
        place: the innermost line of this package on its stack.
        waits: whether it is inside a collective.
    """

    rank: int
    host: str
    at: float
    moved: float
    place: str
    waits: bool


class HangWatch:
    """A daemon thread on this rank that ends the process with exit code 1 if the launch hangs.

    Args:
        store: its own connection to the launch's key-value store, since the main thread may block in another one.
        timeout_seconds: how long the main thread may stand still.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout_seconds: float) -> None:
        self._store, self._rank, self._world_size, self._timeout = store, rank, world_size, timeout_seconds
        self._main, self._ended = threading.main_thread().ident, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; call it before the process group ends, after which other ranks may exit."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        place, moved = None, time.time()
        while True:
            frame = sys._current_frames().get(self._main or 0)
            now, before, place = time.time(), place, _stack(frame)
            moved = now if place != before else moved
            beat = Beat(self._rank, socket.gethostname(), now, moved, place_of(frame), _waits(frame))
            del frame
            try:
                self._store.set(f"hang_watch/{self._rank}", json.dumps(asdict(beat)))
                if now - moved >= self._timeout:
                    self._report(now)
            except RuntimeError as problem:  # also if rank 0, which hosts the store, is the one that hangs
                if now - moved >= self._timeout:
                    _leave(f"rank 0's node does not answer: {' '.join(str(problem).split())[:200]}")
            if self._ended.wait(min(BEAT_SECONDS, self._timeout / 4)):
                return

    def _report(self, now: float) -> None:
        """Let one rank report; a rank that is outside of any collective also prints its stacks."""
        if not _waits(sys._current_frames().get(self._main or 0)):
            faulthandler.dump_traceback(sys.stderr)
        # If rank 0, which hosts the store, is the one that hangs, reading the store may never return.
        silence = threading.Timer(2 * BEAT_SECONDS, _leave, ["rank 0's node does not answer"])
        silence.daemon = True
        silence.start()
        first = self._store.compare_set("hang_watch/reporter", "", str(self._rank)).decode() == str(self._rank)
        message = None
        if first:
            keys = [f"hang_watch/{rank}" for rank in range(self._world_size)]
            known = [Beat(**json.loads(self._store.get(key))) if self._store.check([key]) else None for key in keys]
            message = find_culprits(known, now, self._timeout / 2)
        else:
            time.sleep(BEAT_SECONDS)  # the launcher kills all ranks when the first one exits
        _leave(message)


def watch_for_hangs(timeout: timedelta) -> HangWatch | None:
    """Start watching this rank of an initialized launch; return None if it is the only one."""
    if dist.get_world_size() == 1:
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=2 * BEAT_SECONDS))
    return HangWatch(store, dist.get_rank(), dist.get_world_size(), timeout.total_seconds())


def find_culprits(beats: Sequence[Beat | None], now: float, silence_seconds: float) -> str:
    """Return one line that names who keeps the others waiting.

    Args:
        beats: the last heartbeat of each rank, None for a rank that never sent one.
        silence_seconds: how old a heartbeat may be.
    """
    silent = [rank for rank, beat in enumerate(beats) if beat is None or now - beat.at > silence_seconds]
    heard = [beat for rank, beat in enumerate(beats) if beat is not None and rank not in silent]
    if silent:
        found = [(rank, beats[rank]) for rank in silent[:8]]
        last = [f"{_name(beat)}, last at {beat.place}" if beat else f"rank {rank}, ever" for rank, beat in found]
        return f"no heartbeat from {'; '.join(last)}. Fix: check that node (dmesg, nvidia-smi), or exclude it"
    busy = [beat for beat in heard if now - beat.moved < silence_seconds] or [beat for beat in heard if not beat.waits]
    if busy and len(busy) < len(heard):
        named = "; ".join(f"{_name(beat)} at {beat.place}" for beat in busy[:8])
        fix = "check what it does there; if it is only slow, raise trainer.distributed_timeout_minutes"
        return f"the others wait for {named}. Fix: {fix}"
    places: dict[str, list[int]] = {}
    for beat in heard:
        places.setdefault(beat.place, []).append(beat.rank)
    fewest_first = sorted(places.items(), key=lambda item: len(item[1]))
    where = "; ".join(f"ranks {ranks[:8]} at {place}" for place, ranks in fewest_first[:8])
    return f"no rank makes progress: {where}. Fix: check the network between the nodes (NCCL_DEBUG=INFO)"


def place_of(frame: FrameType | None) -> str:
    """Return the innermost line of this package on a stack, or else the innermost line of all."""
    found = next((one for one in _frames(frame) if _PACKAGE in one.f_code.co_filename), frame)
    return "nowhere" if found is None else f"{found.f_code.co_filename.rpartition(_PACKAGE)[2]}:{found.f_lineno}"


def _stack(frame: FrameType | None) -> tuple[tuple[int, int], ...]:
    """Return the position of every call on a stack; in a thread that works, it soon changes."""
    return tuple((id(one), one.f_lasti) for one in _frames(frame))


def _waits(frame: FrameType | None) -> bool:
    """Return whether a stack is inside a collective; writing a checkpoint, also under ``distributed``, is work."""
    files = [one.f_code.co_filename for one in _frames(frame)]
    return any(COLLECTIVES in file for file in files) and not any(_CHECKPOINTS in file for file in files)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of a stack, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _name(beat: Beat) -> str:
    return f"rank {beat.rank} ({beat.host})"


def _leave(message: str | None) -> None:
    if message is not None:
        print(f"error: the launch hangs: {message}.", file=sys.stderr, flush=True)
    mark_failure()
    os._exit(1)
