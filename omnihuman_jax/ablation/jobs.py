"""The only place that knows the commands of a study, what each makes, and what it waits for."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnihuman_jax.ablation.running import Job
from omnihuman_jax.ablation.study import Point, Study, Videos
from omnihuman_jax.errors import InputError
from omnihuman_jax.testsets import id_list

MODEL = "model.json"  # the last file of a model directory
DONE = "done.json"  # written behind the last video of a folder


def folder(workdir: Path, point: Point, what: str, videos: Videos, seed: int) -> Path:
    """Where the videos ("videos") or the evaluation ("evaluation") of a set with a seed lie."""
    return workdir / point.label / what / videos.name / f"seed{seed}"


def ids(videos: Videos) -> tuple[str, ...] | None:
    """The clips of its test set; None while there is none.

    Raises:
        InputError: there are several, or a damaged one.
    """
    found = [
        file
        for depth in ("", "*/", "*/*/")
        for file in sorted(Path(videos.testset).glob(f"{depth}{id_list.FILE}"))
    ]
    if len(found) > 1:
        raise InputError(f"There are several test sets in {videos.testset}; name one.")
    return id_list.read_ids(found[0]).ids if found else None


def of(study: Study, workdir: Path) -> list[Job]:
    """All of them, each behind those that it waits for.

    Raises:
        InputError: a config or a change that cannot be made.
    """
    found: list[Job] = []
    for number, made in enumerate(study.first, 1):
        name = f"first {number}"
        found.append(
            Job(
                name=name,
                kind="first",
                point="",
                command=made.command,
                makes=(Path(made.file),),
                after=(found[-1].name,) if found else (),
            )
        )
    before = (found[-1].name,) if found else ()
    for (
        point
    ) in study.points():  # a point is whole before the next begins, where one runs at a time
        training = replace(_training(study, workdir, point), after=before)
        found.append(training)
        for videos in study.videos:
            for seed in videos.seeds:
                found += _of_videos(workdir, point, training, videos, seed)
    return found


def _training(study: Study, workdir: Path, point: Point) -> Job:
    train = workdir / point.label / "train"
    return Job(
        name=f"train {point.label}",
        kind="train",
        point=point.label,
        command=("omnihuman", "train", study.base, *point.changes, "--workdir", str(train)),
        makes=(train / "model" / MODEL,),
        amount=study.steps(point),
        unit="updates",
    )


def _of_videos(
    workdir: Path, point: Point, training: Job, videos: Videos, seed: int
) -> Iterable[Job]:
    out, clips = folder(workdir, point, "videos", videos, seed), ids(videos)
    evaluation = folder(workdir, point, "evaluation", videos, seed)
    what = f"{point.label} {videos.name} seed {seed}"
    model = training.makes[0].parent
    made = Job(
        name=f"generate {what}",
        kind="generate",
        point=point.label,
        command=(
            *("python", "-m", "omnihuman_jax.ablation.making", videos.testset, str(out)),
            *("--model", str(model), "--seed", str(seed), "--given", ",".join(videos.given)),
            *videos.generate,
        ),
        makes=(out / DONE,),
        after=(training.name,),
        amount=None if clips is None else len(clips),
        unit="videos",
    )
    yield made
    yield Job(
        name=f"evaluate {what}",
        kind="evaluate",
        point=point.label,
        command=(
            *("omnihuman", "evaluate", str(out), "--testset", videos.testset),
            *("--out", str(evaluation), "--metrics", ",".join(videos.metrics)),
            *("--name", point.label),
        ),
        makes=(evaluation / "summary.json",),
        after=(made.name,),
        amount=made.amount,
        unit="videos",
    )


def told(jobs: Sequence[Job]) -> list[str]:
    """A line a job: how much work it is, whether it is done, and its command; and the sum last."""
    lines = []
    for job in jobs:
        much = "" if not job.unit else f" ({'?' if job.amount is None else job.amount} {job.unit})"
        lines.append(f"# {job.name}{much}{', done' if job.done else ''}\n{job.line}")
    left = [job for job in jobs if not job.done]
    updates = sum(job.amount or 0 for job in left if job.kind == "train")
    videos = [job.amount for job in left if job.kind == "generate"]
    known = None not in videos
    many = sum(each or 0 for each in videos)
    lines.append(
        f"# {len(left)} of {len(jobs)} commands are to be run: {updates} updates in "
        f"{sum(job.kind == 'train' for job in left)} trainings, "
        f"{'' if known else 'at least '}{many} videos"
    )
    return lines


def listed(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        dict(
            name=job.name,
            command=list(job.command),
            amount=job.amount,
            unit=job.unit,
            done=job.done,
            after=list(job.after),
        )
        for job in jobs
    ]
