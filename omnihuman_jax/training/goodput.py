"""The only place that says where a run's time went: into steps, or into something else, in all its lives.

The time of a step runs from when the host could give it to the device, or the device was free for it, to
when the device had done it. What the host does meanwhile (waiting for data, copying a checkpoint) costs
nothing. In between the device is idle, and that time goes to what the host was doing.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Where time can go, beside "step". "start": before the first step; "redone": steps that a restart lost.
KINDS = ("start", "compile", "data", "save", "restore", "sample", "other", "redone")
# What is no part of the pace of training: it happens now and then.
RARE = frozenset({"start", "compile", "save", "restore", "sample"})


class Ledger:
    """Seconds of one life by kind. They add up to the time from its beginning to `at`, none counted twice."""

    def __init__(
        self, began: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.clock = clock
        self.at = clock() if began is None else began  # all before is booked
        self.seconds: dict[str, float] = {}
        self._free: float | None = None  # the host last began to prepare a step
        self._open: list[tuple[str, float]] = []
        self._spans: list[tuple[str, float, float]] = []
        self._stepped = False

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """What the host does in the block is `kind`; in a block within, it is that one's."""
        self._end_span()
        self._open.append((kind, self.clock()))
        try:
            yield
        finally:
            self._end_span()
            self._open.pop()
            self._free = now = self.clock()
            if self._open:
                self._open[-1] = (self._open[-1][0], now)

    def _end_span(self) -> None:
        if self._open:
            kind, since = self._open[-1]
            self._spans.append((kind, since, self.clock()))

    def given(self) -> float:
        """Call when a step was just given to the device: since when the host had prepared it."""
        since, self._free = self._free, self.clock()
        return self._free if since is None else since

    def step(self, since: float, done: float) -> float | None:
        """Book a step that the host prepared from `since` on and the device had done at `done`.

        Returns the seconds from the step before to this one, less what is rare (saving, for
        instance): the pace. None for one that waited for a compilation, or is the first.
        """
        before, idle = self.at, self._idle_until(max(since, self.at))
        busy = max(done - self.at, 0.0)
        self._book("step", busy)
        self.at += busy
        first, self._stepped = not self._stepped, True
        if first or "compile" in idle:
            return None
        return self.at - before - sum(idle.get(kind, 0.0) for kind in RARE)

    def close(self) -> None:
        """Book what is left, up to now."""
        self._idle_until(self.clock())

    def _idle_until(self, until: float) -> dict[str, float]:
        """Book the time from `at` to `until`, in which the device had nothing to do."""
        idle: dict[str, float] = {}
        for kind, start, end in self._spans:
            if (lost := min(end, until) - max(start, self.at)) > 0:
                idle[kind] = idle.get(kind, 0.0) + lost
        rest = "other" if self._stepped else "start"
        idle[rest] = max(until - self.at - sum(idle.values()), 0.0)
        for kind, lost in idle.items():
            self._book(kind, lost)
        self._spans = [span for span in self._spans if span[2] > until]
        self.at = until
        return idle

    def _book(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds


class Lives:
    """Seconds of the whole run by kind, over all its lives; kept as JSON in the workdir.

    Steps behind the checkpoint that a life began from were for nothing: they count as "redone". The time
    between two lives counts nowhere, as no machine was held; nor do the last seconds of a life that was
    killed, as nobody wrote them down.
    """

    def __init__(self, text: bytes | None, redone: float) -> None:
        """`text`: what `dump` wrote in the life before; `redone`: seconds in steps that came to nothing."""
        before: Mapping[str, Any] = json.loads(text) if text else {}
        self.number = int(before.get("lives", 0)) + 1
        self._before: dict[str, float] = dict(before.get("seconds", {}))
        redone = min(redone, self._before.get("step", 0.0))
        if redone:
            self._before["step"] -= redone
            self._before["redone"] = self._before.get("redone", 0.0) + redone

    def seconds(self, now: Mapping[str, float]) -> dict[str, float]:
        """By kind, with those of the present life."""
        kinds = sorted(self._before.keys() | now.keys())
        return {kind: self._before.get(kind, 0.0) + now.get(kind, 0.0) for kind in kinds}

    def dump(self, now: Mapping[str, float]) -> bytes:
        seconds = self.seconds(now)
        told = {"lives": self.number, "goodput": share(seconds), "seconds": seconds}
        return json.dumps(told, indent=1).encode()


def share(seconds: Mapping[str, float]) -> float | None:
    """The part of the time that went into steps which counted; None of no time."""
    total = sum(seconds.values())
    return seconds.get("step", 0.0) / total if total else None
