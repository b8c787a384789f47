"""A study of four points, and evaluations of it with known numbers, as `omnihuman evaluate` writes them."""

import itertools
import json

from omnihuman_jax.ablation import jobs
from omnihuman_jax.ablation.study import Factor, Level, Study, Videos
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.puppets.files import write_clip
from omnihuman_jax.puppets.plan import make_plan
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
    """A test set of two puppets without a fault: 17 frames of 64x64. Its folder."""
    settings = Settings(height=64, width=64, seconds=1.0, voices="formant")
    good = (n for n in range(100) if not make_plan(0, n).faults)
    for number in itertools.islice(good, 2):
        write_clip(str(folder / "drawn"), settings, number)
    source, out = str(folder / "drawn"), str(folder / "set")
    made, _ = build(Set(name="puppets", out=out, source=source, seconds=0.68))
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
