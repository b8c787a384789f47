"""The more a video is spoilt in what a metric is about, the worse the metric, step by step."""

import numpy as np
import pytest

from omnihuman_jax.evaluation import registry
from omnihuman_jax.evaluation.run import Settings, evaluate
from omnihuman_jax.testsets import open_testset
from tests.evaluation.conftest import film

pytestmark = pytest.mark.slow


def tinted(much):
    """All colours away from what they were, by so many of 255."""
    away = np.where(np.arange(3) == 1, -much, much)
    return lambda frames, clip: np.uint8(np.clip(frames + away, 0, 255))


def leaving(much):
    """A tint that grows from nothing to so many of 255 at the end."""

    def change(frames, clip):
        grown = np.linspace(0, much, len(frames))[:, None, None, None]
        return np.uint8(np.clip(frames - grown * (np.arange(3) == 1) * 1.0, 0, 255))

    return change


def aside(pixels):
    """The whole picture to the side."""
    return lambda frames, clip: np.roll(frames, pixels, axis=2)


def late(count):
    """Every frame shown so many later; the first one until then."""
    return lambda frames, clip: np.concatenate(
        [frames[:1].repeat(count, 0), frames[: len(frames) - count]]
    )


def others(share):
    """Another clip of the set shines through."""

    def change(frames, clip):
        next_ = OTHER[clip.id]
        return np.uint8((1 - share) * frames + share * next_)

    return change


OTHER = {}


@pytest.mark.parametrize(
    ("spoilt", "degrees", "names"),
    [
        (tinted, (30, 90), ("puppet_look", "puppet_frechet", "psnr", "ssim")),
        (leaving, (60, 150), ("puppet_drift",)),
        (aside, (4, 10), ("puppet_pose", "psnr", "ssim")),
        (late, (2, 5), ("puppet_lips", "psnr", "ssim")),
        (others, (0.5, 1.0), ("puppet_identity", "puppet_look", "psnr", "ssim")),
    ],
)
def test_more_damage_is_worse(testset, tmp_path, spoilt, degrees, names):
    clips = list(open_testset(testset))
    OTHER.update({c.id: clips[(k + 1) % len(clips)].video() for k, c in enumerate(clips)})
    found = []
    for degree in (0, *degrees):
        change = spoilt(degree) if degree else lambda frames, clip: frames
        videos = film(tmp_path / str(degree), testset, change)
        settings = Settings(videos=str(videos), testset=str(testset), metrics=names)
        found.append(evaluate(settings, lambda line: None))
    for name in names:
        values = [made.metrics[name].value for made in found]
        better = registry.METRICS[name].better
        assert None not in values and better is not None
        worse = values if better == "lower" else values[::-1]
        assert worse[0] <= worse[1] <= worse[2] and worse[0] < worse[2], (name, values)
