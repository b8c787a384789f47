"""The built-in model's student: a transformer of its own, all else is mini's, and one step makes a video."""

import pytest

from omnihuman_jax import load
from omnihuman_jax.models import mini


def test_it_has_mini_s_encoders_and_says_what_it_is():
    student, teacher = mini.find("mini-1step"), mini.find("mini")
    assert student.manifest.sampling["sampler"] == "consistency"
    assert student.manifest.sampling["steps"] in (1, 2)
    for name in ("vae", "text_encoder", "audio_encoder"):
        assert student.folder(name) == teacher.folder(name)
    assert student.folder("dit") != teacher.folder("dit")
    assert "distilled" in student.manifest.provenance["dit"]
    assert not student.manifest.provenance.get("untrained")


@pytest.mark.slow
def test_one_network_call_makes_a_video():
    seen = []
    video = load("mini-1step").generate(
        text="a puppet",
        size=(32, 32),
        frames=5,
        progress=lambda phase, done, total: seen.append((phase, total)),
    )
    assert video.frames.shape == (5, 32, 32, 3)
    assert ("denoise", 1) in seen
