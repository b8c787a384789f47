"""One run of `preprocess`: which videos make which shard, what is done, the closing of the books."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnihuman_jax import health, processes, storage
from omnihuman_jax.data import beam_pipeline, records, report, tfrecord
from omnihuman_jax.data.beam_pipeline import Shard, Steps
from omnihuman_jax.errors import InputError

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
STATE = "preprocess.json"
# Seconds that processes wait for each other: to be started, and for the work of the slowest. One that is
# lost is noticed within a minute all the same (processes.joined).
BEGINNING, WORK = 900, 2 * 24 * 3600

type Progress = Callable[[int, int], None]  # shards done, shards in all


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to make of a folder of raw videos.

    Attributes:
        raw, out: folders, local or gs://.
        name: the start of every file's name.
        videos_per_shard: raw videos whose clips go into one file.
        settings: all that decides what the records hold; a run that was interrupted goes on only
            with the same.
        fps: of all clips.
        channels: of a latent.
        fingerprints: of the encoders.
        limits: thresholds, for the report's pictures: score -> (least, most).
        at_once: shards in one Beam pipeline. An interruption loses those under way; DirectRunner keeps
            a pipeline's records in memory.
        flags: for Beam.
    """

    raw: str
    out: str
    name: str
    steps: Steps
    settings: Mapping[str, Any]
    fps: float
    channels: int
    fingerprints: Mapping[str, str]
    limits: Mapping[str, tuple[float | None, float | None]]
    videos_per_shard: int = 16
    at_once: int = 1
    flags: Sequence[str] = ()
    overwrite: bool = False


def sources(raw: str) -> dict[str, int]:
    """Names of the raw videos in a folder, relative to it, and their bytes; sorted.

    Raises:
        InputError: there are none.
    """
    found = {
        name: size
        for name, size in storage.files(raw).items()
        if name.lower().endswith(VIDEOS) and not name.rpartition("/")[2].startswith(".")
    }
    if not found:
        raise InputError(
            f"There are no videos in {raw}; it needs files ending in {', '.join(VIDEOS)}."
        )
    return found


def run(job: Job, progress: Progress) -> dict[str, Any]:
    """Make what is not there yet, then `dataset.json` and the report. Returns the report's summary.

    Of several processes (processes.joined) each makes its own shards, and the first closes the books.

    Raises:
        InputError: no videos, a folder begun with other settings, or shards with more than 5 % of
            damaged videos (all others are made).
        StoppedError: a process did not come to the end within two days.
    """
    videos = sources(job.raw)
    if job.videos_per_shard < 1 or job.at_once < 1:
        raise InputError(
            "A shard has at least one video, and at least one shard is made at a time."
        )
    number, count = processes.place()
    if number == 0:
        _begin(job, videos)
    processes.barrier("the beginning of preprocess", BEGINNING)
    if number > 0:
        _begin(dataclasses.replace(job, overwrite=False), videos)
    shards = _shards(list(videos), job.videos_per_shard)
    mine = [shard for shard in shards if shard.number % count == number]
    todo = [shard for shard in mine if not _done(job, shard)]
    done = len(mine) - len(todo)
    with health.watched(len(mine), done) as watched:
        progress(done, len(mine))
        for start in range(0, len(todo), job.at_once):
            wave = todo[start : start + job.at_once]
            beam_pipeline.run(job.out, job.name, wave, job.steps, job.flags)
            done += len(wave)
            progress(done, len(mine))
            watched(done)
        processes.barrier("the end of the shards", WORK)
        if number == 0:
            report.write(job.out, job.limits)
        _refuse_failed(job, shards)
        if number == 0:
            _close(job, shards)
        processes.barrier("the end of preprocess", WORK)
    return report.summary(report.rows(job.out))


def _close(job: Job, shards: Sequence[Shard]) -> None:
    info = records.info_from_shards(
        job.out,
        job.name,
        len(shards),
        fingerprints=job.fingerprints,
        fps=job.fps,
        channels=job.channels,
        settings=job.settings,
    )
    records.write_info(job.out, info)


def _shards(videos: Sequence[str], size: int) -> list[Shard]:
    of = -(-len(videos) // size)
    return [Shard(i, of, tuple(videos[i * size : (i + 1) * size])) for i in range(of)]


def _begin(job: Job, videos: Mapping[str, int]) -> None:
    """Note what is being made, or see that it is what was begun here before."""
    listed = hashlib.sha256(json.dumps(list(videos.items())).encode()).hexdigest()
    wanted = {
        "name": job.name,
        "videos": len(videos),
        "videos_sha256": listed,
        "videos_per_shard": job.videos_per_shard,
        "fingerprints": dict(job.fingerprints),
        "settings": dict(job.settings),
    }
    state = storage.join(job.out, STATE)
    there = storage.files(job.out)
    if there and job.overwrite:
        strangers = [n for n in there if not _ours(n)]
        if strangers:
            raise InputError(
                f"--overwrite removes what preprocess made, and {job.out} has other files "
                f"({strangers[0]}); choose another folder."
            )
        storage.remove(job.out)
    elif there and STATE not in there:
        raise InputError(f"{job.out} is not empty and was not made by preprocess; choose another.")
    elif there:
        begun = json.loads(storage.read_bytes(state))
        odd = [key for key in wanted if begun.get(key) != wanted[key]]
        if odd:
            raise InputError(
                f"{job.out} was begun with other {', '.join(odd)}; choose another folder, or start "
                "again with --overwrite."
            )
        return
    storage.write_bytes(state, (json.dumps(wanted, indent=2, sort_keys=True) + "\n").encode())


def _ours(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder == beam_pipeline.REPORTS or (
        not folder and file.endswith((".json", ".tfrecord", ".index"))
    )


def _done(job: Job, shard: Shard) -> bool:
    """Its index is written last."""
    file = tfrecord.shard_file(job.name, shard.number, shard.of)
    index = tfrecord.index_path(storage.join(job.out, file))
    return storage.is_file(index) and storage.is_file(
        beam_pipeline.report_file(job.out, job.name, shard)
    )


def _refuse_failed(job: Job, shards: Sequence[Shard]) -> None:
    failed = [shard for shard in shards if not _done(job, shard)]
    if not failed:
        return
    first = beam_pipeline.report_file(job.out, job.name, failed[0])
    rows = [json.loads(line) for line in storage.read_bytes(first).splitlines()]
    bad = sorted({row["source"] for row in rows if row.get("failed")})
    raise InputError(
        f"{len(failed)} of {len(shards)} shards have more than {beam_pipeline.FAILING:.0%} damaged "
        f"videos, in the first {', '.join(bad[:3])}{' …' if len(bad) > 3 else ''} "
        f"({next(row['detail'] for row in rows if row.get('failed'))}); remove or mend them and run again. "
        "The other shards are kept."
    )
