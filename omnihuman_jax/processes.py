"""The only place that joins the processes of a run, one on each host, and notices when one is lost."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax

from omnihuman_jax.errors import InputError

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SILENCE = 60  # seconds without a sign of life after which a process counts as lost
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

    If another process is lost, this one says so in one line and leaves with exit code 1, at once and
    without cleaning up: whatever it would wait for never comes. Nothing but the updates since the last
    checkpoint is lost.

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
    try:
        yield
    except Exception as why:
        if jax.process_count() > 1 and (line := lost(why)):
            sys.stdout.flush()
            print(line, file=sys.stderr, flush=True)
            os._exit(1)
        raise


def lost(why: BaseException) -> str | None:
    """The line to print if this error means that another process is gone; None if it does not."""
    if not isinstance(why, jax.errors.JaxRuntimeError) or not _LOST.search(str(why)):
        return None
    detail = str(why).splitlines()[0][:200]
    return (
        f"Another process of this run is gone or unreachable ({detail}). Start all of them again with "
        "the same command: the run goes on from its last checkpoint."
    )


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
