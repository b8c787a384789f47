"""The only place that writes WORKDIR/health.json: how far a run is, how fast, and which host is slow.

Whoever watches a run from outside (`tpu/launch.sh babysit`) reads it. A thread of its own writes it once a
minute, so that it tells of a device that never answers, and no step waits for a slow disk.
"""

import contextlib
import json
import logging
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from omnihuman_jax import processes, storage
from omnihuman_jax.errors import InputError

log = logging.getLogger(__name__)

FILE = "health.json"
RUN_ID = "OMNIHUMAN_RUN_ID"  # of whoever starts the run; the same in all its lives
WORKDIR = (
    "OMNIHUMAN_WORKDIR"  # where whoever starts the run looks; training has a folder of its own
)
RECENT = 20  # steps that speed is taken from
# A host is slow if its own work in a step takes so many times that of the middle one, and a share of a step.
SLOWER, SHARE = 2.0, 0.1
_HOSTS = "omnihuman/health/"


@dataclass(frozen=True)
class Whole:
    """What a run is a part of: steps before it, of how many, and the folder where whoever watches looks."""

    folder: str
    before: int
    total: int


class Health:
    """Notes the steps of one life of a run. Every process has one, only the first writes.

    `with health.step(n): wait for the others` goes around the place where processes wait for each other:
    the time between two such places is this host's own work, loading data for instance.
    """

    def __init__(self, folder: str, step: int, total: int, every: float = 60.0) -> None:
        """`folder`: the workdir, local or gs://. `every`: seconds between two files."""
        self.path, self.at, self.total = storage.join(folder, FILE), step, total
        self._state, self._stepped, self._pieces = "running", time.time(), 0
        self._left, self._compiled = time.perf_counter(), False
        self._paces: deque[float] = deque(maxlen=RECENT)
        self._own: deque[float] = deque(maxlen=RECENT)
        self._slow: list[str] = []
        self._every, self._over = every, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """The step is given to the devices; the block waits for the other processes."""
        own = time.perf_counter() - self._left
        yield
        now = time.perf_counter()
        if self._compiled:
            self._paces.append(now - self._left)
            self._own.append(own)
        self._compiled = True  # in the first step
        self._left, self._stepped, self.at = now, time.time(), step

    def piece(self) -> None:
        """Something is done that is no step, such as a part of a dump: the run goes on."""
        self._pieces += 1

    def close(self) -> None:
        """Write the end: "finished", "stopped" before the last step, or "failed". More calls do nothing."""
        if self._over.is_set():
            return
        if sys.exception() is not None:
            self._state = "failed"
        else:
            self._state = "finished" if self.at >= self.total else "stopped"
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            over = self._over.is_set()
            try:
                self._write()
            except (InputError, OSError, jax.errors.JaxRuntimeError) as why:
                log.warning("%s could not be written: %s", self.path, why)
            if over:
                return
            self._over.wait(self._every)

    def _write(self) -> None:
        own = statistics.median(self._own) if self._own else 0.0
        mine = {"host": processes.host(), "step": self.at, "own_seconds": round(own, 4)}
        number = str(jax.process_index())
        processes.tell(_HOSTS + number, json.dumps(mine))
        if jax.process_index():
            return
        hosts = {n: json.loads(text) for n, text in processes.told(_HOSTS).items()} | {number: mine}
        pace = statistics.median(self._paces) if self._paces else None
        slow = stragglers(hosts, pace)
        for name in slow:
            if name not in self._slow:
                print(
                    f"{name} is slow: the others wait for it at every step.",
                    file=sys.stderr,
                    flush=True,
                )
        self._slow = slow
        told = {
            "step": self.at,
            "total": self.total,
            "state": self._state,
            "time": time.time(),
            "stepped": self._stepped,
            "pieces": self._pieces,
            "seconds_a_step": None if pace is None else round(pace, 4),
            "slow": ", ".join(slow),
            "run_id": os.environ.get(RUN_ID, ""),
            "hosts": [{"process": int(n), **hosts[n]} for n in sorted(hosts, key=int)],
        }
        storage.write_bytes(self.path, json.dumps(told, indent=1).encode())


@contextlib.contextmanager
def watched(total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Work in `total` pieces, `done` of them before; the body calls what it is given with how many are done.

    The file is written only if whoever started the program says where (OMNIHUMAN_WORKDIR).
    """
    folder = os.environ.get(WORKDIR)
    if not folder:
        yield lambda count: None
        return
    health = Health(folder, done, total)

    def told(count: int) -> None:
        with health.step(count):
            pass

    try:
        yield told
    finally:
        health.close()


def stragglers(hosts: Mapping[str, Mapping[str, Any]], pace: float | None) -> list[str]:
    """Names of the hosts whose own work lets the others wait.

    `hosts`: by process, with "host" and "own_seconds" of a step. `pace`: seconds of a whole step.
    """
    if len(hosts) < 2 or not pace:
        return []
    middle = statistics.median_low([told["own_seconds"] for told in hosts.values()])
    return [
        told["host"]
        for told in hosts.values()
        if told["own_seconds"] > SLOWER * middle and told["own_seconds"] - middle > SHARE * pace
    ]
