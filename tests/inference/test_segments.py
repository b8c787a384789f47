"""Long videos: every frame is shown once, and an interrupted one ends as if nothing had happened."""

import dataclasses
import gc
import weakref

import jax
import numpy as np
import pytest

from omnihuman_jax.geometry import MOTION_FRAMES
from omnihuman_jax.inference import segments
from omnihuman_jax.inference.segments import Kept
from tests.inference.test_generator import ALL, generator, made  # noqa: F401

LONG = 21  # in segments of 9: 9, 4, 4 and 4 new frames


@pytest.mark.parametrize("clip", [9, 13, 49])
@pytest.mark.parametrize("frames", [1, 9, 13, 14, 49, 50, 300])
def test_segments_cover_every_frame_once_and_no_segment_is_idle(frames, clip):
    firsts = segments.starts(frames, clip)
    shown = [range(s + (MOTION_FRAMES if k else 0), s + clip) for k, s in enumerate(firsts)]
    assert [f for r in shown for f in r] == list(range(segments.covered(frames, clip)))
    assert segments.covered(frames, clip) >= frames and frames > shown[-1].start


@pytest.mark.slow
def test_a_long_video_begins_as_a_short_one_and_the_rest_follows_its_last_frames(generator):  # noqa: F811
    """Without sound: a longer sound is heard as a whole, and so a little differently from the start."""
    quiet = dict(audio=None, pose=None)
    short, long = made(generator, **quiet), made(generator, frames=LONG, **quiet)
    assert long.shape == (LONG, 32, 48, 3)
    np.testing.assert_array_equal(long[:9], short)
    np.testing.assert_array_equal(made(generator, frames=14, **quiet), long[:14])
    assert (long[13:17] != long[9:13]).any(), "every segment has noise of its own"


@pytest.mark.slow
def test_an_interrupted_video_goes_on_with_its_segment_and_ends_the_same(generator, tmp_path):  # noqa: F811
    request = dataclasses.replace(ALL, frames=LONG)
    whole = np.concatenate(list(generator(request)))
    saved = Kept(str(tmp_path), segments.fingerprint(request, {}))
    reports = []
    beginning = generator(request, lambda *report: reports.append(report), saved)
    seen = []
    while sum(map(len, seen)) < 14:  # in the middle of the third segment
        seen.append(next(beginning))
    beginning.close()
    assert len(list(tmp_path.iterdir())) == 2
    again = []
    rest = list(generator(request, lambda *report: again.append(report), saved))
    np.testing.assert_array_equal(np.concatenate(rest), whole)
    steps = [done for phase, done, _ in again if phase == "denoise"]
    assert min(steps) == 2 * ALL.steps, "two segments were there"
    damaged = sorted(tmp_path.iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:99])
    np.testing.assert_array_equal(np.concatenate(list(generator(request, None, saved))), whole)
    assert [done for phase, done, _ in reports if phase == "decode"] == sorted(
        done for phase, done, _ in reports if phase == "decode"
    )
    saved.remove()
    assert not tmp_path.exists()


def test_another_request_has_another_fingerprint():
    same = segments.fingerprint(ALL, {"path": "a"})
    assert same == segments.fingerprint(dataclasses.replace(ALL), {"path": "a"})
    others = [
        segments.fingerprint(dataclasses.replace(ALL, seed=1), {"path": "a"}),
        segments.fingerprint(dataclasses.replace(ALL, audio=ALL.audio + 1), {"path": "a"}),
        segments.fingerprint(ALL, {"path": "b"}),
    ]
    assert len({same, *others}) == 4


@pytest.mark.slow
def test_nothing_of_a_segment_is_left_when_the_next_but_one_begins(generator):  # noqa: F811
    """Not on the device, and not in Python: a video of any length takes the same memory."""
    quiet = dataclasses.replace(ALL, frames=37, audio=None, pose=None)  # 9, then 4 in each of seven
    arrays, pieces = [], []
    for piece in generator(quiet):
        owner = piece
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        pieces.append(weakref.ref(owner))
        gc.collect()
        arrays.append(sorted((a.shape, str(a.dtype)) for a in jax.live_arrays()))
        del owner
    assert len(arrays) >= 10
    assert arrays[-2] == arrays[-4] == arrays[-6], "what is on the device does not grow"
    del piece
    gc.collect()
    assert not any(ref() is not None for ref in pieces[:-4])
