"""The laws of the puppet world: known, repeatable, and readable from what is seen and heard."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest

from omnihuman_jax import skeleton
from omnihuman_jax.errors import InputError
from omnihuman_jax.puppets import palette, plan
from omnihuman_jax.puppets.identity import make_identity
from omnihuman_jax.puppets.reading import inner_mouth, mouth_opening
from omnihuman_jax.puppets.world import Settings, make_clip, preview

SMALL = Settings(seconds=2, height=128, width=128, voices="formant")


def number_of(wanted, seed=0):
    """The first clip whose plan is as wanted."""
    return next(n for n in itertools.count() if wanted(plan.make_plan(seed, n)))


def clip_with(*faults, framing=None, settings=SMALL):
    """The first clip with just these faults."""
    fits = lambda p: p.faults == faults and framing in (None, p.framing)
    return make_clip(settings, number_of(fits))


def envelope(sound, frames):
    """Loudness a frame, smoothed over three."""
    power = (sound[: len(sound) // frames * frames].reshape(frames, -1) ** 2).mean(axis=1)
    return np.convolve(np.sqrt(power), [0.25, 0.5, 0.25], "same")


def lips_to_sound(number):
    clip = preview(dataclasses.replace(SMALL, seconds=4), number)
    opening = skeleton.lip_opening(clip.shot.trace(clip.motion))
    return np.corrcoef(opening, envelope(clip.sound, len(opening)))[0, 1]


def test_a_clip_is_a_function_of_seed_and_number():
    first, again, other = (
        make_clip(dataclasses.replace(SMALL, seed=seed, seconds=1, height=64, width=64), 3)
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.sound, again.sound)
    assert first.sidecar() == again.sidecar()
    assert (first.frames != other.frames).any()
    assert first.caption != other.caption


@pytest.mark.parametrize("framing", ["portrait", "half-body", "full-body"])
def test_the_drawn_mouth_tells_the_truth(framing):
    """Over people of all skins, beards and lips."""
    settings = dataclasses.replace(SMALL, height=256, width=256, seconds=1)
    numbers = [n for n in range(64) if plan.make_plan(0, n).framing == framing]
    shown = [n for n in numbers if not plan.make_plan(0, n).faults][:2]
    for number in shown:
        clip = make_clip(settings, number)
        read = mouth_opening(clip.frames)
        assert np.corrcoef(read, clip.truth["mouth"])[0, 1] > 0.95, clip.caption
        # The same share of a head for everybody, so that readings compare between people.
        slope = np.polyfit(clip.truth["mouth"], read * 256 / clip.truth["pixels_per_head"], 1)[0]
        assert slope == pytest.approx(0.107, rel=0.2), clip.caption


def test_the_mouth_is_the_only_thing_of_its_colour():
    """With the mouth shut the reader finds nothing, whoever it is and wherever."""
    for number in range(40):
        shot = preview(SMALL, number)
        pose = shot.motion.poses[0]
        shut = dataclasses.replace(pose, look=dataclasses.replace(pose.look, opening=0.0))
        assert inner_mouth(shot.shot.draw(shut)[None]).sum() < 1.5, number


def test_opening_grows_with_the_truth_pixel_by_pixel():
    shot = preview(SMALL, number_of(lambda p: p.framing == "portrait" and not p.faults))
    pose = shot.motion.poses[0]
    looks = [dataclasses.replace(pose.look, opening=o) for o in np.linspace(0, 1, 9).tolist()]
    frames = np.stack([shot.shot.draw(dataclasses.replace(pose, look=look)) for look in looks])
    assert (np.diff(mouth_opening(frames)) > 0.001).all()


def test_keypoints_lie_on_what_is_drawn():
    """Hands and nose are skin, eyes are not; the person's left is on the image's right."""
    near = lambda a, b: palette.far(tuple(int(v) for v in a), b)
    for number in (n for n in range(40) if plan.make_plan(0, n).framing == "half-body"):
        shot = preview(dataclasses.replace(SMALL, height=256, width=256), number)
        if shot.shot.desk or shot.shot.covered:
            continue
        skin = shot.shot.figure.who.skin
        pose = shot.motion.poses[20]
        frame, points = shot.shot.draw(pose), shot.shot.keypoints(pose)
        x, y = (points[:, :2] * 255.99).astype(int).T
        colours = frame[y.clip(0, 255), x.clip(0, 255)]
        palms = [91 + 9, 91 + 5, 112 + 9, 112 + 5]  # knuckles
        assert np.median([near(colours[k], skin) for k in palms if points[k, 2]]) < 110
        assert near(colours[0], skin) < 150  # it shines
        assert points[5, 0] > points[6, 0] and points[1, 0] > points[2, 0]
        shoulder, elbow, wrist = (points[k, :2] * 256 for k in (5, 7, 9))
        assert np.hypot(*(elbow - shoulder)) < 0.67 * shot.shot.scale
        assert np.hypot(*(wrist - points[91, :2] * 256)) < 1


def test_inner_lips_part_as_far_as_the_truth_says():
    """skeleton.lip_opening is proportional to the truth, in one and the same measure."""
    clip = clip_with(framing="portrait")
    opening = skeleton.lip_opening(clip.pose)
    assert np.corrcoef(opening, clip.truth["mouth"])[0, 1] > 0.99


def test_lips_follow_the_sound_of_good_clips_only():
    good = [n for n in range(24) if not plan.make_plan(0, n).faults][:3]
    assert min(map(lips_to_sound, good)) > 0.6
    for faults in (("dubbed",), ("noise",)):
        assert abs(lips_to_sound(number_of(lambda p, f=faults: p.faults == f))) < 0.35, faults


def test_what_a_clip_teaches_can_be_seen_in_it():
    """Arms are in sight where pose is taught and never where it is not; lips where audio is."""
    for number in range(32):
        clip = preview(dataclasses.replace(SMALL, seconds=1), number)
        faults, teaches = clip.plan.faults, clip.plan.teaches
        poses, camera = clip.motion.poses, clip.motion.camera
        pose = np.stack([clip.shot.keypoints(poses[k], *camera.at(k)) for k in (0, 9, 16, 24)])
        wrists = pose[:, [9, 10], 2]
        lips = pose[:, 23 + 60 : 23 + 68, 2]
        if not set(faults) & set(plan.REJECTED):
            assert wrists.all() == ("pose" in teaches), clip.plan
            assert lips.any() == ("hidden_mouth" not in faults)
            # A microphone shows the hand that holds it.
            assert "pose" in teaches or "hidden_mouth" in faults or not wrists.any()
        if clip.plan.desk:  # elbows would be in the frame
            assert not pose[:, [7, 8, 9, 10], 2].any()
        assert (clip.sound is None) == ("no_track" in faults)
        if "silent" in faults:
            assert not clip.sound.any()


def test_shares_are_as_published_and_all_combinations_occur():
    assert plan.shares() == {"text": 27 / 32, "reference": 27 / 32, "audio": 0.5, "pose": 11 / 32}
    for seed in range(5):
        plans = [plan.make_plan(seed, n) for n in range(64)]
        assert {("audio" in p.teaches, "pose" in p.teaches) for p in plans if p.teaches} == {
            (a, b) for a in (True, False) for b in (True, False)
        }
        seen = {fault for p in plans for fault in p.faults}
        assert seen == {*plan.SOUND_FAULTS, *plan.REJECTED, "hidden_pose"}


def test_rejected_clips_are_what_their_fault_says():
    tiny = dataclasses.replace(SMALL, seconds=1, height=64, width=64)
    dark, frozen, cut = (clip_with(f, settings=tiny) for f in ("dark", "frozen", "cut"))
    assert dark.frames.mean() < 20
    assert (frozen.frames == frozen.frames[0]).all() and len(set(frozen.truth["mouth"])) == 1
    jumps = np.abs(np.diff(cut.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert np.argmax(jumps) == len(cut.frames) // 2 - 1 and jumps.max() > 5 * np.median(jumps)
    one = dataclasses.replace(SMALL, seconds=1)
    plain = preview(one, number_of(lambda p: p.faults == ("subtitles",))).frame(0)
    titled = clip_with("subtitles", settings=one).frames[0]
    changed = np.abs(plain.astype(int) - titled).sum(axis=-1) > 30
    assert not changed[:96].any() and changed[96:].sum() > 200


def test_people_differ():
    people = [make_identity(0, n) for n in range(200)]
    for name in ("skin_name", "hair_name", "hair_style", "hat", "glasses", "beard", "noun", "age"):
        assert len({getattr(who, name) for who in people}) > 2, name
    assert len({who.clothes for who in people}) == 200
    assert len({who.hair_style for who in people}) == 16
    assert len({preview(SMALL, n).caption for n in range(6)}) == 6


def test_captions_name_what_is_drawn():
    clip = preview(SMALL, number_of(lambda p: p.framing == "half-body" and not p.faults))
    who = clip.shot.figure.who
    for word in (who.noun, who.skin_name, who.clothes.name, "half-body", "speaking"):
        assert word in clip.caption
    assert "a a" not in clip.caption and "  " not in clip.caption


@pytest.mark.parametrize("height, width", [(64, 64), (192, 192), (192, 320), (448, 256), (96, 240)])
def test_any_size(height, width):
    settings = dataclasses.replace(SMALL, height=height, width=width, seconds=1)
    for framing in ("portrait", "half-body", "full-body"):
        clip = preview(settings, number_of(lambda p, f=framing: p.framing == f and not p.faults))
        assert clip.frame(3).shape == (height, width, 3)
        pose = clip.shot.trace(clip.motion)
        assert pose.shape == (25, 133, 3) and np.isfinite(pose).all()
        face = pose[:, skeleton.FACE]
        assert (face[..., 2] == 1).mean() > 0.9, framing
        assert ((face[..., :2] > 0) & (face[..., :2] < 1)).mean() > 0.9


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"height": 255}, "height is even"),
        ({"width": 32}, "width is even, from 64"),
        ({"height": 128, "width": 512}, "2.5 times"),
        ({"seconds": 0.5}, "from 1 to 600 seconds"),
        ({"seconds": float("nan")}, "from 1 to 600 seconds"),
        ({"fps": 100}, "from 5 to 60 frames"),
        ({"seed": -1}, "seed is 0 or more"),
        ({"voices": "robot"}, "one of auto, espeak, formant"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, reason):
    with pytest.raises(InputError, match=reason):
        dataclasses.replace(SMALL, **wrong)


def test_workers_do_not_load_jax():
    code = "import sys, omnihuman_jax.puppets.files as f; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
