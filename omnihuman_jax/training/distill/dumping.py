"""The only place that makes a teacher's dump for consistency, and batches of one (its bytes: data/dumps.py).

A lesson is what the teacher says of one batch. All of a run's processes make it together, each writes its own
clips: block k, of so many batches, has a shard a process. A block that is there is not made again.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH, Batch, Conditions
from omnihuman_jax.data import dumps, info
from omnihuman_jax.data.dumps import DumpSource, TeacherSample
from omnihuman_jax.errors import InputError
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.streams import Numbered
from omnihuman_jax.training.transformer import MOTION as FRAMES

NAME, MOTION = "teacher", "motion"
BLOCK = 16  # batches of a shard
GIVEN = (*STRENGTH, MOTION)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lesson:
    """A batch, and what the teacher says of it; a process's part is numpy until it goes to the devices.

    Attributes:
        batch: latents x0, and the conditions that were given, with `present` for each.
        shown: bool "B", which clips begin with clean motion frames.
        level: int32 "B", number of the level that each clip is at.
        x: float32 "B T H W C", x0 noised to it.
        velocity: float32 "B T H W C", the teacher's there, guided.
    """

    batch: Any
    shown: Any
    level: Any
    x: Any
    velocity: Any


def folder_of(dump: str, stage: OmniStage) -> str:
    """Where the lessons of a stage are."""
    return storage.join(dump, stage.name.replace(" ", "_").replace(",", ""))


def make(
    folder: str,
    lessons: Callable[[int], Iterator[Lesson]],
    count: int,
    *,
    channels: int,
    negative: Float[np.ndarray, "N E"],
    times: Float[np.ndarray, "levels"],
    guidance: float,
    settings: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """The dump of one stage, from where it was left.

    Args:
        lessons: the batches from a number on, on the devices, the same for the same number.
        count: how many.
        channels: of a latent.
        negative: what the teacher read in place of the text; no rows for nothing.
        times: flow time of each level.
        settings: what the dump depends on; one that was begun with others is refused.

    Raises:
        InputError: `folder` has a dump of other settings, or one begun by another number of processes.
    """
    hosts, host = jax.process_count(), jax.process_index()
    settings = {**settings, "batches": count, "hosts": hosts, "block": BLOCK}
    if storage.is_file(storage.join(folder, info.FILE)):
        _check_same(folder, info.read_info(folder).settings, settings)
        return
    blocks = math.ceil(count / BLOCK)
    shards = blocks * hosts
    begun = [n for n in storage.files(folder) if n.endswith(".index")]
    if any(f"-of-{shards:05d}" not in name for name in begun):
        raise InputError(
            f"{folder} was begun with another number of batches or processes; remove it, or go on with those."
        )
    _, shared = dumps.common(negative)
    running: Iterator[Lesson] | None = None
    for block in range(blocks):
        mine = block * hosts + host
        there = all(dumps.has_shard(folder, NAME, block * hosts + h, shards) for h in range(hosts))
        if hosts > 1:
            there = bool(np.all(multihost_utils.process_allgather(np.array(there))))
        if there:
            running = None
            continue
        if running is None:
            running = lessons(block * BLOCK)
        many = min(BLOCK, count - block * BLOCK)
        samples = (
            sample
            for number in range(block * BLOCK, block * BLOCK + many)
            for sample in _samples(next(running), number, host, negative, times, guidance)
        )
        dumps.write_shard(folder, NAME, mine, shards, samples, shared)
        say(f"dump: {block * BLOCK + many} of {count} batches in {folder}")
    if hosts > 1:
        multihost_utils.sync_global_devices("dump")
    if host == 0:
        dumps.finish_dump(folder, NAME, shards, negative, channels=channels, settings=settings)
    if hosts > 1:
        multihost_utils.sync_global_devices("dump finished")


def stream(dump: str, seed: int, stage: OmniStage) -> Numbered:
    """The lessons of a dump as batches of a stage: in another order in each epoch, this process's rows.

    Raises:
        InputError: no dump, or one of another batch size.
    """
    source = DumpSource(folder_of(dump, stage))
    told = source.info.settings
    if told.get("batch") != stage.batch:
        raise InputError(
            f"The dump in {folder_of(dump, stage)} has batches of {told.get('batch')}, and stage "
            f"{stage.name!r} of {stage.batch}; the two have to be the same."
        )
    count, hosts, block = told["batches"], told["hosts"], told["block"]
    share = stage.batch // jax.process_count()
    first = jax.process_index() * share

    def lesson(n: int) -> Lesson:
        epoch, at = divmod(n, count)
        order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
        where = functools.partial(
            place, int(order[at]), batch=stage.batch, hosts=hosts, block=block, count=count
        )
        return _lesson([source[where(row)] for row in range(first, first + share)])

    return Numbered(lesson, {"dump": source.info.crc, "seed": seed, "batch": stage.batch})


def place(number: int, row: int, *, batch: int, hosts: int, block: int, count: int) -> int:
    """Which sample of a dump is row `row` of batch `number`: shards are by block, then by process.

    Args:
        batch: rows of a batch. hosts: processes that shared them. block: batches of a shard.
        count: batches of the dump; the last block may have fewer.
    """
    rows = batch // hosts
    whole, inside = divmod(number, block)
    many = min(block, count - whole * block)
    before = whole * block * batch + (row // rows) * many * rows
    return before + inside * rows + row % rows


def _samples(
    lesson: Lesson,
    number: int,
    host: int,
    negative: Float[np.ndarray, "N E"],
    times: Float[np.ndarray, "levels"],
    guidance: float,
) -> Iterator[TeacherSample]:
    """This process's clips of a lesson, as a dump has them."""
    own: Lesson = jax.tree.map(_local, lesson)
    given = own.batch.conditions
    for row in range(len(own.level)):
        extras = {
            name: getattr(given, name)[row]
            for name in ("reference", "audio", "pose")
            if getattr(given, name) is not None
        }
        present = {n: bool(given.present[n][row]) for n in GIVEN if n in given.present}
        extras["present"] = np.array([present.get(name, False) for name in GIVEN])
        extras["asked"] = np.array([name in given.present for name in GIVEN])
        extras["level"] = np.array(own.level[row], np.int32)
        extras["sample"] = np.array(own.batch.sample[row], np.int64)
        text = given.text
        if text is None:
            text = np.zeros((len(own.level), 0, negative.shape[1]), np.float32)
        yield TeacherSample(
            id=f"{number:06d}-{host:04d}-{row:04d}",
            prompt="",
            noise=own.x[row].astype(np.float32),
            latents=own.batch.latents[row].astype(np.float32),
            v_teacher=own.velocity[row].astype(np.float32),
            t=float(times[own.level[row]]),
            guidance=guidance,
            positive_context=text[row].astype(np.float32),
            negative_context=negative,
            extras=extras,
        )


def _local(x: jax.Array) -> np.ndarray:
    """The rows of an array that are this process's, in order."""
    parts = {}
    for shard in x.addressable_shards:
        start = shard.index[0].start or 0 if shard.index else 0
        parts[start] = np.asarray(shard.data)
    return np.concatenate([parts[start] for start in sorted(parts)])


def _lesson(samples: Sequence[TeacherSample]) -> Lesson:
    """Samples as a batch again."""
    first = samples[0]
    present = np.stack([s.extras["present"] for s in samples])

    def field(name: str) -> np.ndarray | None:
        return np.stack([s.extras[name] for s in samples]) if name in first.extras else None

    text = np.stack([s.positive_context for s in samples]) if len(first.positive_context) else None
    assert first.latents is not None
    x0 = np.stack([s.latents for s in samples if s.latents is not None])
    shown = present[:, GIVEN.index(MOTION)]
    fields: dict[str, Any] = {
        "text": text,
        "reference": field("reference"),
        "audio": field("audio"),
        "pose": field("pose"),
        # There in every batch of a stage that has motion frames, so that all are compiled as one.
        "motion": x0[:, :FRAMES] if first.extras["asked"][GIVEN.index(MOTION)] else None,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    has: dict[str, Any] = {name: present[:, GIVEN.index(name)] for name in given}
    latents: Any = x0
    numbers: Any = np.array([s.extras["sample"] for s in samples], np.uint32)
    return Lesson(
        batch=Batch(latents=latents, conditions=Conditions(**given, present=has), sample=numbers),
        shown=shown,
        level=np.array([s.extras["level"] for s in samples], np.int32),
        x=np.stack([s.noise for s in samples]),
        velocity=np.stack([s.v_teacher for s in samples]),
    )


def _check_same(folder: str, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    odd = [name for name, value in wanted.items() if there.get(name) != value]
    odd = [name for name in odd if name not in ("hosts", "block")]
    if odd:
        was = ", ".join(f"{name} was {there.get(name)}, is {wanted[name]}" for name in odd)
        raise InputError(f"The dump in {folder} was made with other settings: {was}. Remove it.")
