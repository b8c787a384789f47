"""The laws of scoring: what is drawn right scores near the top, what is not near nothing."""

import itertools
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageFilter

from omnihuman_jax.errors import InputError
from omnihuman_jax.puppets import colour_reading, palette, plan, scoring
from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.reading import mouth_opening
from omnihuman_jax.puppets.world import Settings, make_clip, preview

SMALL = Settings(seconds=1, height=96, width=96, voices="formant")


def numbers(*framings):
    """Clips of these framings without a fault, of people that nothing trained on."""
    for number in itertools.count(50_000):
        made = plan.make_plan(0, number)
        if made.framing in framings and not made.faults:
            yield number


@cache
def clips(count, *framings):
    found = numbers(*framings)
    return [make_clip(SMALL, next(found)) for _ in range(count)]


def drawn(count):
    """Frames, pose and shot of a few moments of many people."""
    made = []
    for number in itertools.islice(numbers("portrait", "half-body"), count):
        p = preview(SMALL, number)
        frames = np.stack([p.frame(k) for k in (0, 24)])
        made.append((frames, p.shot.trace(p.motion)[[0, 24]], p))
    return made


@cache
def people():
    return drawn(14)


def truth(clip):
    return np.array(clip.truth["mouth"], np.float32)


def test_lips_follow_their_own_truth_only():
    some = clips(4, "portrait", "half-body")
    lips = scoring.lip_table([mouth_opening(c.frames) for c in some], [truth(c) for c in some])
    assert lips.scores.min() > 0.88
    assert abs(lips.shuffled.mean()) < 0.3
    assert lips.lag == 0
    assert scoring.lip_score(some[0].frames, truth(some[0])) == pytest.approx(lips.scores[0])


def test_lips_are_read_through_a_little_blur_and_noise():
    clip = clips(4, "portrait", "half-body")[0]
    soft = [Image.fromarray(f).filter(ImageFilter.GaussianBlur(0.8)) for f in clip.frames]
    noisy = np.stack(soft) + np.random.default_rng(0).normal(0, 10, clip.frames.shape)
    assert scoring.lip_score(noisy.clip(0, 255).astype(np.uint8), truth(clip)) > 0.85


def test_a_mouth_that_does_not_move_scores_nothing():
    clip = clips(4, "portrait", "half-body")[0]
    still = np.repeat(clip.frames[:1], len(clip.frames), axis=0)
    assert scoring.lip_score(still, truth(clip)) == 0
    assert scoring.lip_score(np.full_like(clip.frames, 127), truth(clip)) == 0


def test_a_late_mouth_is_found_out():
    some = clips(4, "portrait", "half-body")
    late = [np.roll(mouth_opening(c.frames), 2) for c in some]
    lips = scoring.lip_table(late, [truth(c) for c in some])
    assert lips.lag == 2
    assert lips.at_lag > 0.9 > lips.scores.mean() + 0.1


def test_tracks_of_two_lengths_are_refused():
    with pytest.raises(InputError, match="one length"):
        scoring.correlation(np.zeros(5, np.float32), np.zeros(6, np.float32))
    with pytest.raises(InputError, match="2 clips"):
        scoring.lip_table([np.zeros(5, np.float32)], [np.zeros(5, np.float32)])


def test_pose_error_is_a_share_of_the_frame_and_leaves_out_what_is_not_seen():
    there = np.zeros((2, 17, 3), np.float32)
    there[..., 2] = 1
    found = there.copy()
    found[:, 9, :2] = (0.3, 0.4)
    assert scoring.pose_error(found, there, (9, 10)) == pytest.approx(0.25)
    there[:, 9, 2] = 0
    assert scoring.pose_error(found, there) == 0
    assert np.isnan(scoring.pose_error(found, there, (9,)))


def test_people_are_known_by_their_colours_at_another_moment():
    looks = [
        [colour_reading.look(f[k : k + 1], p[k : k + 1]) for k in (0, 1)] for f, p, _ in people()
    ]
    before = np.stack([first for first, _ in looks])
    assert [scoring.rank(later, before, k) for k, (_, later) in enumerate(looks)] == [0] * len(
        looks
    )
    assert all(scoring.rank(later, before, k - 1) > 0 for k, (_, later) in enumerate(looks))


def test_colours_are_read_where_they_are():
    clothes, hair = [], []
    for frames, pose, p in people():
        who = p.shot.figure.who
        if who.clothes.pattern == "plain" and who.clothes.garment not in ("dungarees", "jacket"):
            name = who.clothes.name
            clothes.append(scoring.agrees("clothes", frames, pose, palette.CLOTH, name))
        if who.hat is None and who.hair_style not in ("bald", "headscarf", "buzz"):
            hair.append(scoring.agrees("hair", frames, pose, palette.HAIR, who.hair_name))
    assert len(clothes) > 2 and all(clothes)
    assert len(hair) > 2 and all(hair)


def test_a_puppet_is_told_from_its_empty_backdrop_and_from_noise():
    faces = scoring.Faces.of([(frames, pose) for frames, pose, _ in people()[:10]])
    noise = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    shown, empty = 0, 0
    for frames, pose, p in people():
        skin = p.shot.figure.who.skin
        shown += scoring.shows_a_puppet(frames, pose, skin, faces)
        empty += scoring.shows_a_puppet(backdrop(p), pose[:1], skin, faces)
        assert not scoring.shows_a_puppet(noise, pose[:1], skin, faces)
    assert shown >= 12 and empty <= 2


def backdrop(p):
    """The scene without the puppet."""
    canvas = Canvas(Image.new("RGB", p.shot.size), lambda at: at * 96, 96.0)
    p.shot.scene.layer.draw(canvas, p.shot.size)
    return canvas.pixels()[None]
