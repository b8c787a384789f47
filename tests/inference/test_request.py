"""From what a user types to a request: lengths, sizes, defaults, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.request import Wish, prepare
from omnihuman_jax.models import manifest
from omnihuman_jax.models.mini import mini

MODEL = mini()
FPS, MOST = MODEL.manifest.sampling["fps"], MODEL.manifest.sampling["frames"]
SIDE = round(MODEL.manifest.sampling["area"] ** 0.5)


def test_nothing_given_is_a_built_in_portrait_that_the_model_knows_and_speech():
    request = prepare(Wish(), MODEL)
    assert request.reference.shape == (256, 256, 3) and len(request.audio) > 16_000
    assert request.text is None and request.grid == Grid(MOST, SIDE, SIDE)
    usual = dataclasses.replace(MODEL.manifest, sampling=manifest.SAMPLING)
    photograph = prepare(Wish(frames=5), dataclasses.replace(MODEL, manifest=usual)).reference
    assert photograph.shape == (512, 512, 3)


def test_one_condition_given_brings_no_other():
    request = prepare(Wish(text="a woman nods"), MODEL)
    assert request.reference is None and request.audio is None and request.text == "a woman nods"


@pytest.mark.parametrize("seconds, grid, kept", [(1.0, 25, 25), (0.5, 13, 12), (0.01, 1, 1)])
def test_the_video_lasts_as_long_as_asked_though_the_grid_is_4n_plus_1(seconds, grid, kept):
    request = prepare(Wish(text="", seconds=seconds), MODEL)
    assert (request.grid.frames, request.frames) == (grid, kept)


def test_a_pose_at_another_rate_is_resampled_and_sets_the_length(tmp_path):
    """x = time in seconds at 50 fps: at 25 fps frame f shows the middle of its 40 ms."""
    keypoints = np.full((30, 17, 3), 0.5)
    keypoints[:, :, 0] = ((np.arange(30) + 0.5) / 50)[:, None]
    (tmp_path / "pose.json").write_text(json.dumps({"fps": 50, "keypoints": keypoints.tolist()}))
    request = prepare(Wish(pose=str(tmp_path / "pose.json")), MODEL)
    assert request.frames == 15 and request.grid.frames == 17
    np.testing.assert_allclose(request.pose[:, 0, 0], (np.arange(15) + 0.5) / 25, atol=1e-6)


def test_the_shape_of_the_reference_is_kept(tmp_path):
    Image.new("RGB", (300, 600)).save(tmp_path / "tall.png")
    request = prepare(Wish(reference=str(tmp_path / "tall.png")), MODEL)
    grid = request.grid
    assert abs(grid.height - 2 * grid.width) <= 16  # both are multiples of 16


def test_one_scale_guides_both_so_that_two_passes_do():
    request = prepare(Wish(text_guidance=4.0), MODEL)
    plan = request.guidance.plan({"text", "audio"}, np.ones(1), np.zeros(1))
    assert len(plan.passes) == 2


@pytest.mark.parametrize(
    "wish, says",
    [
        (Wish(text="", steps=0), "at least 1 step, got 0"),
        (Wish(text="", sampler="magic"), "unipc"),
        (Wish(text="", frames=48), "4n.1 frames, got 48; use 45 or 49"),
        (Wish(text="", size=(200, 192)), "height must be a multiple of 16, got 200"),
        (Wish(text="", frames=9, seconds=1.0), "one of them"),
        (Wish(text="", seconds=-1.0), "positive length"),
        (Wish(text="", seconds=float("nan")), "positive length"),
        (Wish(text="", fps=0.0), "--fps"),
        (Wish(text="", seed=-1), "--seed"),
        (Wish(text="", shift=0.0), "shift must be positive"),
        (Wish(text="", anneal="linear"), "--guidance-end"),
        (Wish(text="", guidance_end=1.0), "--anneal"),
        (Wish(reference="nowhere.png"), "nowhere.png"),
        (Wish(audio="nowhere.wav"), "nowhere.wav"),
        (Wish(pose="nowhere.json"), "nowhere.json"),
    ],
)
def test_what_cannot_work_is_one_line(wish, says):
    with pytest.raises(InputError, match=says) as caught:
        prepare(wish, MODEL)
    assert "\n" not in str(caught.value)
