"""A study of four points, and evaluations of it with known numbers, as `omnihuman evaluate` writes them."""

import json

from omnihuman_jax.ablation import jobs
from omnihuman_jax.ablation.study import Factor, Level, Study, Videos
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.puppets.files import write_clips
from omnihuman_jax.puppets.world import Settings
from omnihuman_jax.testsets import Settings as Set
from omnihuman_jax.testsets import build

CLIPS = tuple(f"clip-{n}" for n in range(6))


def study(testset="nowhere", **changes) -> Study:
    """Audio at 10, 50 and 100 %, and the training seed."""
    audio = lambda share: (
        "stages.pose.ratios.unordered=true",
        "stages.pose.ratios.pose=0",
        f"stages.pose.ratios.audio={share}",
    )
    settings = dict(
        title="A <study>",
        base="configs/tiny.py",
        factors=(
            Factor(
                name="audio",
                asks="Is half best?",
                levels=(
                    Level(shown="10 %", changes=audio(0.1)),
                    Level(shown="50 %"),
                    Level(shown="100 %", changes=audio(1.0)),
                ),
            ),
            Factor(
                name="seed",
                levels=(Level(shown="0"), Level(shown="1", changes=("seed=1",))),
                noise=True,
            ),
        ),
        videos=(
            Videos(
                name="talk", testset=str(testset), metrics=("lips", "whole"), seeds=(0, 1), rated=2
            ),
        ),
    )
    return Study(**(settings | changes))


def evaluated(study, workdir, point, numbers, whole=1.0) -> None:
    """A point that is there whole: `numbers(seed)` of clips, a metric "lips", and a metric of the set."""
    model = workdir / point.label / "train" / "model"
    model.mkdir(parents=True)
    (model / jobs.MODEL).write_text("{}")
    for videos in study.videos:
        for seed in videos.seeds:
            folder = jobs.folder(workdir, point, "evaluation", videos, seed)
            (folder / "clips").mkdir(parents=True)
            values = dict(zip(CLIPS, numbers(seed), strict=True))
            for clip, value in values.items():
                row = {"id": clip, "video": "", "values": {"lips": value}}
                (folder / "clips" / f"{clip}.json").write_text(json.dumps(row))
            told = dict(value=0.0, low=None, high=None, count=6, definition="what it is")
            metrics = {
                "lips": told | {"better": "higher"},
                "whole": told | {"value": whole + seed, "better": "lower"},
                "faces": told | {"value": None, "better": None, "why": "needs weights"},
            }
            summary = dict(format=1, name="x", testset="t", metrics=metrics, clips=list(CLIPS))
            (folder / "summary.json").write_text(json.dumps(summary))


def puppets(folder):
    """A test set of puppets: 1 s of 64x64, two that have no fault. Its folder."""
    settings = Settings(height=64, width=64, seconds=1.0)
    write_clips(str(folder / "drawn"), settings, 6, processes=1)
    made, _ = build(
        Set(
            name="puppets",
            out=str(folder / "set"),
            source=str(folder / "drawn"),
            seconds=0.68,
            count=2,
        )
    )
    return made


def filmed(study, workdir, colour) -> None:
    """A video a clip and point, of the point's colour."""
    for point in study.points():
        for videos in study.videos:
            for clip in jobs.ids(videos):
                file = (
                    jobs.folder(workdir, point, "videos", videos, videos.seeds[0]) / f"{clip}.mp4"
                )
                file.parent.mkdir(parents=True, exist_ok=True)
                with VideoWriter(file, height=64, width=64, fps=25) as out:
                    for _ in range(9):
                        out.append(colour(point.label))
