"""The only place that keeps the compiler's answers, in the user's cache, by all that they depend on."""

import functools
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import omnihuman_jax
from omnihuman_jax import ahead, config
from omnihuman_jax.planning.compiler import Answer, Job
from omnihuman_jax.settings import described

OFF = "OMNIHUMAN_CACHE"  # "off" keeps nothing, as for features of texts (inference/remembered.py)


def answer(job: Job, ask: Callable[[Job], Answer]) -> tuple[Answer, bool]:
    """The answer to a job, and whether it was known: a known one compiles nothing."""
    file = _folder() / f"{key(job)}.json"
    if os.environ.get(OFF) == "off":
        return ask(job), False
    try:
        return Answer.of(json.loads(file.read_text())), True
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or of another version: asked again
    found = ask(job)
    _keep(file, found.described())
    return found, False


def key(job: Job) -> str:
    """A name for everything that an answer depends on: settings, slice, clip, compiler, and our code."""
    settings = described(config.load(job.config, job.changes))
    what = [job.slice, job.size, job.stage, job.phase, job.part, job.videos]
    told = [settings, *what, ahead.version(), _version("jax"), _code()]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    return importlib.metadata.version(package)


@functools.cache
def _code() -> str:
    """Of the package's own files, since any of them may be a part of the program."""
    found = hashlib.sha256()
    for file in sorted(Path(omnihuman_jax.__file__).parent.rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "omnihuman_jax" / "plans"


def _keep(file: Path, told: Any) -> None:
    """Whole or not at all; a cache that cannot be written is no cache."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
            json.dump(told, new)
        Path(new.name).replace(file)
    except OSError:
        return
