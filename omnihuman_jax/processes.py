"""The only place that joins the processes of a run, one on each host, and notices when one is lost."""

import contextlib
import itertools
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed  # its key-value store; nothing public reaches it

from omnihuman_jax.errors import InputError, StoppedError

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SILENCE = 60  # seconds without a sign of life after which a process counts as lost
GRACE = 5.0  # seconds in which a process may find the same error itself
BEAT = 1.0  # seconds between two signs of life that processes give each other
_barriers = itertools.count()
_watch: "_Watch | None" = None  # of this process, while it is one of several
_BEATS, _FAILED, _ARRIVED = "omnihuman/beats/", "omnihuman/failed/", "omnihuman/arrived/"
# What collectives and the coordinator say when somebody does not answer any more.
_LOST = re.compile(
    r"gloo|connection (closed|reset)|broken pipe|heartbeat|coordination|unavailable|aborted"
    r"|deadline.exceeded|barrier|peer",
    re.IGNORECASE,
)


@contextlib.contextmanager
def joined(everywhere: bool = False) -> Iterator[None]:
    """The body runs as one of the processes of a run; jax.devices() are those of all of them.

    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say which one.
    Without them it runs alone, or, `everywhere`, as what the machines around say it is: Cloud TPU, GKE,
    Slurm and Open MPI are recognised (jax.distributed.initialize).

    If another process is lost or fails, this one says which in one line and leaves with exit code 1, at
    once and without cleaning up: whatever it would wait for never comes. Nothing but the updates since the
    last checkpoint is lost.

    Raises:
        InputError: the variables make no sense, or nothing is recognised.
    """
    told = _told()
    if told is None and not everywhere:
        yield
        return
    try:
        jax.distributed.initialize(
            **(told or {}), heartbeat_timeout_seconds=SILENCE, shutdown_timeout_seconds=SILENCE
        )
    except (ValueError, RuntimeError) as why:
        raise InputError(
            f"This process could not join the others ({str(why).splitlines()[0]}); on machines that "
            f"JAX does not recognise set {ADDRESS} (host:port of process 0), {COUNT} and {NUMBER}."
        ) from None
    global _watch
    watch = _watch = _Watch()
    try:
        yield
    except Exception as why:
        leave_if_lost(why)
        watch.failed(why)
        raise
    finally:
        watch.close()
        _watch = None


def leave_if_lost(why: Exception) -> None:
    """End this process, as `joined` says, if the error means that another one is gone.

    For whoever has to close what would wait for the others.
    """
    if _watch is not None and jax.process_count() > 1 and (line := lost(why, _watch.missing)):
        _leave(line)


def lost(why: BaseException, missing: Any = lambda: "") -> str | None:
    """The line to print if this error means that another process is gone; None if it does not.

    `missing()` names it, or is empty where nobody knows.
    """
    # Some calls of jaxlib hand on what the runtime said as a ValueError, its status word first.
    told = isinstance(why, ValueError) and re.match(r"[A-Z_]+: ", str(why))
    if not (told or isinstance(why, jax.errors.JaxRuntimeError)) or not _LOST.search(str(why)):
        return None
    detail = str(why).splitlines()[0][:200]
    named = missing()
    return (
        f"Another process of this run is gone or unreachable{f': {named}' if named else ''} ({detail}). "
        "Start all of them again with the same command: the run goes on from its last checkpoint."
    )


def place() -> tuple[int, int]:
    """Which process this is, counted from 0, and how many there are; no device is touched."""
    state = distributed.global_state
    return (0, 1) if state.client is None else (state.process_id, state.num_processes)


def host() -> str:
    """The name by which people know this process: that of its machine, or OMNIHUMAN_WORKER."""
    return os.environ.get("OMNIHUMAN_WORKER") or socket.gethostname()


def tell(key: str, text: str) -> None:
    """Leave `text` for all processes of the run; nothing where there is only one."""
    if (client := distributed.global_state.client) is not None:
        client.key_value_set(key, text, allow_overwrite=True)


def told(folder: str) -> dict[str, str]:
    """What processes have left below `folder`, by the last part of its key; empty where there is only one.

    Raises:
        jax.errors.JaxRuntimeError: process 0, which keeps it, does not answer.
    """
    if (client := distributed.global_state.client) is None:
        return {}
    return {key.rsplit("/", 1)[-1]: text for key, text in client.key_value_dir_get(folder)}


def barrier(name: str, seconds: float) -> None:
    """Wait until all processes are here.

    Raises:
        StoppedError: somebody is not here after so many seconds; says who.
    """
    client = distributed.global_state.client
    if client is None:
        return
    place = f"{name}-{next(_barriers)}"  # the service takes each name once
    tell(f"{_ARRIVED}{place}/{distributed.global_state.process_id}", host())
    try:
        client.wait_at_barrier(f"omnihuman/{place}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as why:
        if "DEADLINE_EXCEEDED" not in str(why):
            raise
        here, names = told(f"{_ARRIVED}{place}/"), told(_BEATS)
        absent = [
            f"process {number} on {_host_of(names.get(str(number)))}"
            for number in range(distributed.global_state.num_processes)
            if str(number) not in here
        ]
        raise StoppedError(
            f"After {seconds:g} seconds these have not reached '{name}': {', '.join(absent)}. Look at their "
            "logs, and start all processes again with the same command."
        ) from None


class _Watch:
    """Gives a sign of life, and leaves when another process says that it has failed.

    A device that waits for a process which is gone never returns, so this has a thread of its own. Silence
    alone is left to JAX, which ends the process after SILENCE seconds of it; here it only gives the name.
    """

    def __init__(self) -> None:
        state = distributed.global_state  # to ask jax would take the devices already
        self._me, self._over = str(state.process_id), threading.Event()
        self._count, self._alone = 0, (state.num_processes or 1) == 1
        if not self._alone:
            self._beat()
            threading.Thread(target=self._run, daemon=True).start()

    def missing(self) -> str:
        """The processes that give no sign any more, by number and host; takes three beats to see."""
        try:
            before = told(_BEATS)
            time.sleep(3 * BEAT)
            silent = [
                f"process {number} on {_host_of(after)}"
                for number, after in told(_BEATS).items()
                if number != self._me and before.get(number) == after
            ]
        except jax.errors.JaxRuntimeError:
            return "process 0"  # which keeps the signs of all
        return ", ".join(silent)

    def failed(self, why: Exception) -> None:
        """Tell the others, who would wait for this one."""
        if not self._alone:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                detail = (str(why).splitlines() or [""])[0][:200]
                tell(_FAILED + self._me, f"{host()}: {type(why).__name__}: {detail}")

    def close(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self._beat()
                others = {
                    number: why for number, why in told(_FAILED).items() if number != self._me
                }
            except jax.errors.JaxRuntimeError:
                continue  # process 0 is gone: JAX or a collective will say so
            for number, why in others.items():
                if self._over.wait(GRACE):
                    return  # this one had the same error
                _leave(
                    f"Process {number} of this run has failed, on {why}. When that is mended, start all of "
                    "them again with the same command: the run goes on from its last checkpoint."
                )

    def _beat(self) -> None:
        self._count += 1
        tell(_BEATS + self._me, f"{host()} {self._count}")


def _host_of(beat: str | None) -> str:
    return "an unknown host" if beat is None else beat.rpartition(" ")[0]


def _leave(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    os._exit(1)


def _told() -> dict[str, Any] | None:
    found = {name: os.environ.get(name) for name in (ADDRESS, COUNT, NUMBER)}
    if found[ADDRESS] is None:
        return None
    numbers = {name: found[name] or "" for name in (COUNT, NUMBER)}
    if not all(re.fullmatch(r"\d+", text) for text in numbers.values()):
        raise InputError(
            f"With {ADDRESS} go {COUNT} and {NUMBER}, two whole numbers; got "
            f"{COUNT}={found[COUNT]} and {NUMBER}={found[NUMBER]}."
        )
    count, number = (int(text) for text in numbers.values())
    if number >= count or ":" not in str(found[ADDRESS]):
        raise InputError(
            f"{NUMBER} counts from 0 to {COUNT} - 1 and {ADDRESS} is host:port; got {number} of "
            f"{count} and {found[ADDRESS]}."
        )
    return {
        "coordinator_address": str(found[ADDRESS]),
        "num_processes": count,
        "process_id": number,
    }
