"""From a raw file to candidates: the right frames, sound, keypoints and reference, or a counted reason."""

import dataclasses
import io
import json
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from omnihuman_jax import skeleton, storage
from omnihuman_jax.data import preprocess, raw
from omnihuman_jax.data.candidates import Candidate, Rejection
from omnihuman_jax.data.preprocess import Settings, Signals, prepare, thumbnail
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.settings import override
from tests.cloud import cloud
from tests.data.test_quality import moving, person, with_text
from tests.data.test_raw import bad_files, flip_bits, numbered, written

__all__ = ["cloud"]  # a fixture

FPS = 25
FIRST, SECOND = 60, 130  # frames of the two scenes


def colour(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def film():
    """Two scenes of a wall on which a disc marks the frame's number: it goes once around a clock."""
    frames = np.concatenate([colour(moving(11, FIRST)), colour(moving(12, SECOND))[..., ::1] // 2])
    for number, frame in enumerate(frames):
        x, y = disc(number)
        cv2.circle(frame, (round(x), round(y)), 12, (255, 40, 40), -1)
    return frames


def disc(number):
    angle = 2 * np.pi * number / (FIRST + SECOND)
    return 256 + 180 * np.cos(angle), 144 + 100 * np.sin(angle)


def number_of(frame):
    """Which frame this is, by the disc; of any size."""
    red = (frame[..., 0].astype(int) - frame[..., 1] > 120).astype(np.uint8)
    y, x = np.argwhere(red).mean(axis=0)
    height, width = red.shape
    angle = np.arctan2((y / height * 288 - 144) / 100, (x / width * 512 - 256) / 180)
    return angle / (2 * np.pi) % 1 * (FIRST + SECOND)


def clicks():
    """A click at the start of frames 30, 80 and 150."""
    sound = np.random.default_rng(0).normal(0, 0.01, (FIRST + SECOND) * 640).astype(np.float32)
    for number in (30, 80, 150):
        sound[number * 640 : number * 640 + 80] = 0.9
    return sound


def drifting(frames):
    """A person who goes slowly to the right."""
    points = person(frames, size=0.3)
    points[..., 0] += np.linspace(-0.1, 0.1, frames, dtype=np.float32)[:, None]
    return points


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """film.mp4 with its sidecar: a person in the middle in every frame."""
    path = tmp_path_factory.mktemp("raw")
    with VideoWriter(path / "film.mp4", height=288, width=512, fps=FPS, sound=clicks()) as out:
        out.append(film())
    points = drifting(FIRST + SECOND)
    side = {
        "caption": "A disc on a wall.",
        "pose": {"fps": FPS, "keypoints": points.tolist()},
        "scores": {"speech_ratio": 0.9, "lip_correlation": 0.8},
    }
    (path / "film.json").write_text(json.dumps(side))
    return path


def run(path, settings=None, **signals):
    return list(prepare(str(path), Path(path).name, settings or Settings(), Signals(**signals)))


def without(*names, **changes):
    """Settings whose bounds on some scores are taken away."""
    bounds = [f"thresholds.{name}.{end}=none" for name in names for end in ("least", "most")]
    return dataclasses.replace(override(Settings(), bounds), **changes)


def test_a_film_becomes_clips_with_all_that_belongs_to_them(folder):
    clips = run(folder / "film.mp4", Settings(lengths=(49, 33)))
    assert all(isinstance(clip, Candidate) for clip in clips), clips
    places = {"0000.000": 0, "0001.000": 64, "0001.001": 113}
    assert [clip.id for clip in clips] == [f"film.mp4#{place}" for place in places]
    for clip, start in zip(clips, places.values(), strict=True):
        assert (clip.grid.frames, clip.grid.height, clip.grid.width) == (49, 144, 256)
        assert clip.frames.shape == (49, 144, 256, 3)
        seen = np.array([number_of(frame) for frame in clip.frames])
        off = seen - start - np.arange(49)
        turn = FIRST + SECOND
        assert np.abs((off + turn / 2) % turn - turn / 2).max() < 0.5
        assert clip.text == "A disc on a wall."
        assert clip.teaches == {"text", "reference", "audio", "pose"}
        scene = (0, FIRST) if start < FIRST else (FIRST, FIRST + SECOND)
        drawn = number_of(clip.reference)
        assert scene[0] <= drawn <= scene[1]
        assert not start - 0.5 <= drawn <= start + 48.5
        assert clip.lead == min(start * 640, 16_000)
        assert len(clip.sound) <= clip.lead + 49 * 640 + 16_000
        heard = np.flatnonzero(np.abs(clip.sound) > 0.4) / 640 + start - clip.lead / 640
        inside = [c for c in (30, 80, 150) if start - 25 <= c < start + 49 + 25]
        assert sorted({round(h) for h in heard}) == inside
        there = drifting(FIRST + SECOND)[start : start + 49]
        np.testing.assert_allclose(clip.pose[:, 0, :2], there[:, 0, :2], atol=0.004)


def test_what_is_given_is_not_measured(folder):
    def never(*_):
        raise AssertionError("this was given, and is measured all the same")

    clips = run(folder / "film.mp4", landmarks=never, speech=never, lips=never)
    assert clips[0].scores["speech_ratio"] == 0.9
    assert {"brightness", "sharpness", "clarity", "motion", "frozen"} <= clips[0].scores.keys()
    assert "people" not in clips[0].scores  # nobody counted them
    assert "sync_c" not in clips[0].scores


def test_detectors_are_asked_about_the_clip(folder, tmp_path):
    (tmp_path / "film.mp4").write_bytes((folder / "film.mp4").read_bytes())
    asked = []

    def landmarks(frames, fps):
        asked.append((len(frames), max(frames.shape[1:3]), fps))
        return person(len(frames), size=0.3)

    def lips(opening, sound, fps):
        assert len(sound) == 49 * 640
        assert opening.shape == (49,)
        return 0.6, 1

    clips = run(
        tmp_path / "film.mp4",
        landmarks=landmarks,
        speech=lambda sound: float(np.abs(sound).max() > 0.5),
        lips=lips,
        people=lambda frames: np.arange(len(frames)) // 4 + 1,
        scorers=(lambda frames, sound, fps: {"iqa": 4.0, "sync_c": 5.0, "offset": 2.0},),
    )
    assert {length for length, _, _ in asked} == {49, 1}  # clips, and references outside
    assert {side for _, side, _ in asked} == {512}
    assert [clip.scores["speech_ratio"] for clip in clips] == [1, 1, 1]
    assert clips[0].scores["people"] == 2
    assert clips[0].scores["iqa"] == 4
    assert clips[0].teaches == {"reference", "pose"}  # two people: whose voice?


def test_sound_that_syncnet_finds_shifted_is_moved_back(folder, tmp_path):
    """Offset o: picture i goes with the sound of picture i - o."""
    (tmp_path / "film.mp4").write_bytes((folder / "film.mp4").read_bytes())
    side = json.loads((folder / "film.json").read_text())
    side["scores"] |= {"sync_c": 6, "offset": 3}
    (tmp_path / "film.json").write_text(json.dumps(side))
    plain, moved = run(folder / "film.mp4"), run(tmp_path / "film.mp4")
    for before, after in zip(plain[1:], moved[1:], strict=True):
        length = 49 * 640
        there = before.sound[before.lead : before.lead + length - 3 * 640]
        here = after.sound[after.lead + 3 * 640 : after.lead + length]
        np.testing.assert_array_equal(there, here)
    start = moved[0].sound[moved[0].lead :]
    assert (start[: 3 * 640] == 0).all()
    np.testing.assert_array_equal(start[3 * 640 :][:640], plain[0].sound[:640])


def test_the_same_file_gives_the_same_bytes_and_references_are_anywhere(folder, tmp_path):
    first, second = run(folder / "film.mp4"), run(folder / "film.mp4")
    for a, b in zip(first, second, strict=True):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
    whole = str(folder / "film.mp4")
    firsts = [next(iter(prepare(whole, name, Settings(), Signals()))) for name in "abcde"]
    drawn = {round(number_of(clip.reference)) for clip in firsts}
    assert len(drawn) > 2
    assert all(49 <= number < FIRST - 4 for number in drawn)


def test_a_clip_as_long_as_its_scene_has_a_reference_of_its_own(folder):
    clips = run(folder / "film.mp4", Settings(lengths=(53,), trim=4))
    inside = [number_of(c.reference) for c in clips if c.id.endswith("#0000.000")]
    assert 0 <= inside[0] < FIRST


def test_a_bucket_gives_the_same(folder, cloud):
    for name in ("film.mp4", "film.json"):
        storage.write_bytes(storage.join(cloud, "raw", name), (folder / name).read_bytes())
    there = run(f"{cloud}/raw/film.mp4")
    here = run(folder / "film.mp4")
    assert [clip.id for clip in there] == [clip.id for clip in here]
    np.testing.assert_array_equal(there[0].frames, here[0].frames)
    np.testing.assert_array_equal(there[0].pose, here[0].pose)


def test_a_small_person_is_shown_large(tmp_path):
    """The crop is still, keypoints follow, and what lies outside is not there."""
    wall = colour(moving(13, 49, 1))
    wide = np.stack([cv2.resize(frame, (1024, 576)) for frame in wall])
    with VideoWriter(tmp_path / "a.mp4", height=576, width=1024, fps=FPS) as out:
        out.append(wide)
    points = person(49, x=0.7, size=0.1)
    points[:, 15, :2] = (0.02, 0.9)
    points[:, 15, 2] = 0.2  # a foot that is a guess
    side = {"caption": "x", "pose": {"fps": FPS, "keypoints": points.tolist()}}
    (tmp_path / "a.json").write_text(json.dumps(side))
    (clip,) = run(tmp_path / "a.mp4", Settings(areas=(192 * 192,), max_upscale=1.5))
    assert clip.scores["face_size"] > 0.15
    assert (clip.pose[:, 15, 2] == 0).all()
    spread = np.ptp(clip.pose[0, [5, 6], 0])
    assert spread > 1.6 * np.ptp(points[0, [5, 6], 0])


REASONS = [
    ("brightness", lambda w: w // 12, {}),
    ("frozen", lambda w: np.stack([w[0]] * len(w)), {}),
    ("text_area", lambda w: with_text(w, "This is what she said to him\nand to her", 20), {}),
    ("sharpness", lambda w: np.stack([cv2.GaussianBlur(f, (0, 0), 12) for f in w]), {}),
    ("nothing", lambda w: w, {}),
    ("resolution", lambda w: w, {"areas": (480 * 832,)}),
    ("duration", lambda w: w[:30], {}),
]


@pytest.mark.parametrize("reason, make, changes", REASONS)
def test_each_reason_is_told_with_its_number_and_a_picture(tmp_path, reason, make, changes):
    frames = make(moving(14, 60))
    with VideoWriter(tmp_path / "a.mp4", height=288, width=512, fps=FPS) as out:
        out.append(colour(frames))
    settings = without(*(["motion"] if reason == "frozen" else []), **changes)
    (rejected,) = run(tmp_path / "a.mp4", settings)
    assert isinstance(rejected, Rejection)
    assert rejected.reason == reason
    assert not rejected.failed
    assert any(letter.isdigit() for letter in rejected.detail) or reason == "nothing"
    assert rejected.seconds == pytest.approx(min(49, len(frames)) / FPS)
    strip = np.asarray(Image.open(io.BytesIO(rejected.thumbnail)))
    assert strip.shape == (54, 4 * 96, 3)


def test_files_that_can_give_no_clip_are_one_rejection(tmp_path):
    slow = written(tmp_path / "slow.mp4", numbered(60), np.arange(60.0))
    (rejected,) = run(slow)
    assert (rejected.reason, rejected.failed) == ("frame_rate", False)
    assert "at least 12" in rejected.detail
    tags = dict(color_trc=16, color_primaries=9, colorspace=9)
    bright = written(tmp_path / "hdr.mp4", numbered(60), pix_fmt="yuv420p10le", **tags)
    (rejected,) = run(bright, Settings(hdr="reject"))
    assert rejected.reason == "hdr"
    assert "hdr" not in {clip.reason for clip in run(bright) if isinstance(clip, Rejection)}


def test_damaged_files_cost_only_themselves(folder, tmp_path):
    plain = folder / "film.mp4"
    for path in bad_files(plain, tmp_path):
        (rejected,) = run(path)
        assert (rejected.reason, rejected.failed, rejected.source) == ("decode", True, path.name)
        assert "\n" not in rejected.detail
    (tmp_path / "a.mp4").write_bytes(plain.read_bytes())
    flip_bits(tmp_path / "a.mp4")
    (rejected,) = run(tmp_path / "a.mp4")
    assert (rejected.reason, rejected.failed) == ("decode", True)
    (tmp_path / "a.json").write_text("{")
    (rejected,) = run(tmp_path / "a.mp4")
    assert (rejected.reason, rejected.failed) == ("sidecar", True)


def test_our_own_mistakes_are_raised(folder, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(folder / "film.mp4", scorers=(broken,))
    monkeypatch.setattr(preprocess.scenes, "cuts", broken)
    with pytest.raises(ZeroDivisionError):
        run(folder / "film.mp4")


def test_where_keypoints_are_given_no_detector_runs(folder):
    def forbidden(*_):
        raise AssertionError("detected what was given")

    assert run(folder / "film.mp4", people=forbidden, landmarks=forbidden)


def test_sound_alone_missing_takes_audio_only(tmp_path, folder):
    with VideoWriter(tmp_path / "film.mp4", height=288, width=512, fps=FPS) as out:
        out.append(film()[:FIRST])
    (tmp_path / "film.json").write_bytes((folder / "film.json").read_bytes())
    (clip,) = run(tmp_path / "film.mp4")
    assert clip.sound is None
    assert clip.lead == 0
    assert clip.teaches == {"text", "reference", "pose"}


def test_a_thumbnail_is_a_strip_of_four():
    frames = np.stack([np.full((60, 80, 3), level, np.uint8) for level in (0, 90, 180, 250)] * 3)
    strip = np.asarray(Image.open(io.BytesIO(thumbnail(np.sort(frames, axis=0)))))
    assert strip.shape == (72, 384, 3)
    levels = strip[36, 48::96].mean(axis=-1)
    assert np.abs(levels - [0, 90, 180, 250]).max() < 45
    assert thumbnail(frames[:0]) == b""
    assert np.asarray(Image.open(io.BytesIO(thumbnail(frames[:1])))).shape == (72, 96, 3)


@pytest.mark.slow
def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path):
    """Eight times as long, and the peak of what Python holds stays within a fifth."""
    scene = colour(moving(15, 100))
    peaks = {}
    for times in (1, 8):
        path = tmp_path / f"{times}.mp4"
        sound = np.zeros(times * 64_000, np.float32)
        with VideoWriter(path, height=288, width=512, fps=FPS, sound=sound) as out:
            for _ in range(times):
                out.append(scene)
        tracemalloc.start()
        seconds = 0.0
        for clip in prepare(str(path), path.name, Settings(), Signals()):
            seconds += clip.seconds
        peaks[times] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds > 0.8 * times * 3.92
    assert peaks[8] < 1.2 * peaks[1]


def test_lips_of_a_given_pose_open_in_the_cropped_frame(folder):
    """The opening handed on is the sidecar's own, whatever the crop: it is a ratio."""
    seen = {}

    def lips(opening, sound, fps):
        seen["opening"] = opening
        return 0.5, 0

    side = json.loads((folder / "film.json").read_text())
    del side["scores"]["lip_correlation"]
    other = folder / "other.mp4"
    other.write_bytes((folder / "film.mp4").read_bytes())
    (folder / "other.json").write_text(json.dumps(side))
    clips = run(other, lips=lips)
    assert clips[0].scores["lip_correlation"] == 0.5
    wanted = skeleton.lip_opening(drifting(FIRST + SECOND)[141 - 28 : 162], 512 / 288)
    np.testing.assert_allclose(seen["opening"], wanted, rtol=0.05)
    assert raw.SOUND_RATE == 16_000
