"""A test set of four puppets, once for all tests of the layer, and videos of it, more or less damaged."""

import os

import numpy as np
import pytest

from omnihuman_jax.media import VideoWriter
from omnihuman_jax.puppets.files import write_clip
from omnihuman_jax.puppets.plan import make_plan
from omnihuman_jax.puppets.world import Settings as World
from omnihuman_jax.testsets import Settings, build, open_testset

CLEAN = {"crf": "0", "preset": "ultrafast", "threads": "1"}


@pytest.fixture(scope="session")
def testset(tmp_path_factory):
    """Three portraits and a half-body of 64x64, 30 frames each."""
    root = tmp_path_factory.mktemp("puppets")
    world = World(height=64, width=64, seconds=1.2, voices="formant")
    wanted = ["portrait", "half-body", "portrait", "portrait"]
    for number in range(100):
        plan = make_plan(0, number)
        if wanted and plan.framing == wanted[0] and not plan.faults and not plan.desk:
            wanted.pop(0)
            write_clip(str(root / "raw"), world, number)
    folder, _ = build(Settings(name="puppets", source=str(root / "raw"), out=str(root / "set")))
    return folder


def film(
    folder,
    testset,
    change=lambda frames, clip: frames,
    sound=lambda sound, clip: sound,
    encoding=CLEAN,
):
    """A video a clip of the test set: the truth, changed. The folder."""
    for clip in open_testset(testset):
        path = folder / f"{clip.id}.mp4"
        os.makedirs(path.parent, exist_ok=True)
        made = {"height": clip.height, "width": clip.width, "fps": clip.fps, "encoding": encoding}
        with VideoWriter(path, sound=sound(clip.sound, clip), rate=16_000, **made) as out:
            out.append(change(clip.video(), clip))
    return folder


def noisy(much):
    """Grey noise of that deviation, another in every frame."""

    def change(frames, clip):
        noise = np.random.default_rng(1).standard_normal(frames.shape[:3])[..., None] * much
        return np.uint8(np.clip(frames + noise, 0, 255))

    return change
