"""Video: exact frames at the exact rate, sound in step, colours kept, and whole or not at all."""

import resource
from fractions import Fraction

import av
import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.media import VideoWriter, example, probe_video, read_audio

SIZE = {"height": 48, "width": 64}
AAC_FRAME = 1024 / 48_000  # seconds


@pytest.fixture(scope="module")
def speech():
    return read_audio(example("speech.flac"))


def moving(frames):
    """A bright square that goes right."""
    pixels = np.full((frames, SIZE["height"], SIZE["width"], 3), 40, np.uint8)
    for index in range(frames):
        pixels[index, 16:32, index % 48 : index % 48 + 16] = 220
    return pixels


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def best_lag(heard, truth, most=80):
    """The shift in samples at which `heard` is most like `truth`, and how like."""
    length = min(len(heard), len(truth)) - most
    scores = {
        lag: np.corrcoef(heard[lag + most : length + lag], truth[most:length])[0, 1]
        for lag in range(-most, most + 1)
    }
    lag = max(scores, key=scores.__getitem__)
    return lag, scores[lag]


@pytest.mark.parametrize(
    "fps, exact, frames",
    [
        (25, Fraction(25), 70),
        (25.0, Fraction(25), 1),
        (12.5, Fraction(25, 2), 30),
        (30000 / 1001, Fraction(30000, 1001), 61),
        (Fraction(24000, 1001), Fraction(24000, 1001), 40),
        (23.976, Fraction(2997, 125), 33),
    ],
)
def test_a_video_with_sound_comes_back(tmp_path, speech, fps, exact, frames):
    path = tmp_path / "new" / "folders" / "a.mp4"
    with VideoWriter(path, **SIZE, fps=fps, sound=speech, rate=16_000) as out:
        out.append(moving(frames)[0])
        for start in range(1, frames, 7):
            out.append(moving(frames)[start : start + 7])
        assert not path.exists()
    facts = probe_video(path)
    assert (facts.frames, facts.fps) == (frames, exact)
    assert (facts.height, facts.width) == (SIZE["height"], SIZE["width"])
    assert facts.audio_seconds == pytest.approx(float(frames / exact), abs=AAC_FRAME)
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]
    if frames > 25:
        lag, likeness = best_lag(read_audio(path), speech)
        assert abs(lag) <= 1
        assert likeness > 0.99


def test_sound_and_picture_are_in_step(tmp_path):
    """A click at each flash, both found where they were put."""
    pixels, sound = np.zeros((50, *SIZE.values(), 3), np.uint8), np.zeros(2 * 44_100, np.float32)
    for frame in (10, 35):
        pixels[frame] = 255
        sound[frame * 44_100 // 25 :][:400] = np.sin(np.arange(400) * 0.3)
    with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25, sound=sound, rate=44_100) as out:
        out.append(pixels)
    light = [frame.mean() for frame in decoded(tmp_path / "a.mp4")]
    loud = np.abs(read_audio(tmp_path / "a.mp4", 25_000)).reshape(50, 1000).max(axis=1)
    assert np.flatnonzero(np.array(light) > 128).tolist() == [10, 35]
    assert np.flatnonzero(loud > 0.5).tolist() == [10, 35]


@pytest.mark.parametrize("seconds", [0.0, 0.4, 3.0])
def test_sound_is_cut_or_goes_on_in_silence(tmp_path, seconds):
    sound = 0.5 * np.sin(np.arange(round(16_000 * seconds)) * 0.3).astype(np.float32)
    with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=10, sound=sound, rate=16_000) as out:
        out.append(moving(10))
    heard = read_audio(tmp_path / "a.mp4")
    assert abs(len(heard) / 16_000 - 1) <= AAC_FRAME
    silent_from = round(16_000 * seconds) + 1024
    assert np.abs(heard[silent_from:]).max(initial=0) < 1e-3


def test_without_sound_there_is_no_sound_track(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25) as out:
        out.append(moving(5))
    assert probe_video(tmp_path / "a.mp4").audio_seconds is None
    with pytest.raises(InputError, match="no sound track"):
        read_audio(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 30), (255, 255, 255), (0, 0, 0)]
)
def test_colours_come_back_and_the_file_says_how(tmp_path, colour):
    """Small and large videos alike are BT.709, and tagged so, because players guess by the size."""
    with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25) as out:
        out.append(np.full((3, *SIZE.values(), 3), colour, np.uint8))
    for frame in decoded(tmp_path / "a.mp4"):
        assert np.abs(frame.astype(int) - colour).max() <= 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        tags = container.streams.video[0].codec_context
        assert [tags.colorspace, tags.color_primaries, tags.color_trc] == [1, 1, 1]


def test_pictures_are_close_and_in_order(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25) as out:
        out.append(moving(40))
    for seen, drawn in zip(decoded(tmp_path / "a.mp4"), moving(40), strict=True):
        assert np.abs(seen.astype(int) - drawn).mean() < 4


def test_a_player_can_start_before_the_end_has_come(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25) as out:
        out.append(moving(5))
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, InputError, SystemExit])
def test_after_an_error_the_folder_is_as_it_was(tmp_path, speech, error):
    (tmp_path / "a.mp4").write_text("the old one")
    with (
        pytest.raises(error),
        VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25, sound=speech) as out,
    ):
        out.append(moving(60))
        raise error
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_text() == "the old one"


def test_an_old_video_is_replaced_by_one_with_usual_permissions(tmp_path):
    (tmp_path / "a.mp4").write_text("the old one")
    with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25) as out:
        out.append(moving(2))
    assert probe_video(tmp_path / "a.mp4").frames == 2
    (tmp_path / "other").touch()
    assert (tmp_path / "a.mp4").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("missing", [1, 300, 20_000, 10**9])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, speech, missing):
    """A limit on the size of a file stands in for the disk: when opening, on the way, at the end."""
    noise = np.random.default_rng(0).integers(0, 255, (20, *SIZE.values(), 3), np.uint8)

    def write():
        with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25, sound=speech) as out:
            for frame in noise:
                out.append(frame)

    write()
    whole = (tmp_path / "a.mp4").stat().st_size
    (tmp_path / "a.mp4").unlink()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(0, whole - missing), usual[1]))
    try:
        with pytest.raises(InputError, match=r"a\.mp4 cannot be written: ") as caught:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"height": 47}, "height is even"),
        ({"width": 8}, "width is even, from 16"),
        ({"width": 10_000}, "width is even"),
        ({"fps": 0}, "frame rate"),
        ({"fps": float("nan")}, "frame rate"),
        ({"fps": 1000.0}, "frame rate"),
        ({"rate": 0}, "rate lies between"),
        ({"sound": np.array([0, np.nan], np.float32)}, "finite"),
        ({"path": "a.avi"}, "end in .mp4"),
        ({"path": "folder.mp4"}, "is a folder"),
        ({"path": "file/a.mp4"}, "cannot be written"),
    ],
)
def test_what_cannot_work_is_refused_before_a_frame_is_made(tmp_path, wrong, reason):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    wrong = {"path": "a.mp4", **SIZE, "fps": 25, **wrong}
    wrong["path"] = tmp_path / wrong["path"]
    with pytest.raises(InputError, match=reason), VideoWriter(**wrong):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"folder.mp4", "file"}


def test_frames_of_another_size_and_no_frames_are_refused(tmp_path):
    with (
        pytest.raises(InputError, match="frames of 48x64x3, got 64x48x3"),
        VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25) as out,
    ):
        out.append(moving(2).swapaxes(1, 2))
    with (
        pytest.raises(InputError, match="at least one frame"),
        VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25) as out,
    ):
        out.append(moving(0))
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_sound_that_was_written(tmp_path, speech):
    with VideoWriter(tmp_path / "a.mp4", **SIZE, fps=25, sound=np.tile(speech, 10)) as out:
        for _ in range(4):
            out.append(moving(100))
            assert len(out._track._pending) <= 2 * 48_000


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    for path in (tmp_path / "text.mp4", example("speech.flac"), tmp_path, tmp_path / "missing.mp4"):
        with pytest.raises(InputError):
            probe_video(path)
