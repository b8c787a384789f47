"""Raw video of every kind: each moment shows its own picture, or the file is refused in one line."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from omnihuman_jax import storage
from omnihuman_jax.data import hdr, raw
from omnihuman_jax.media import VideoWriter, example
from tests.cloud import cloud

__all__ = ["cloud"]  # a fixture

HEIGHT, WIDTH = 64, 96
CODES = {"pq": 16, "hlg": 18}


def numbered(count):
    """Frames that carry their number in eight bars, black or white: it survives compression."""
    bits = (np.arange(count)[:, None] >> np.arange(8)) & 1
    rows = np.repeat(bits.astype(np.uint8) * 215 + 20, WIDTH // 8, axis=1)
    return np.broadcast_to(rows[:, None, :, None], (count, HEIGHT, WIDTH, 3))


def numbers(frames):
    """The numbers that the frames carry."""
    seen = []
    for frame in frames:
        assert frame.shape == (HEIGHT, WIDTH, 3)
        bars = frame[HEIGHT // 2].mean(axis=-1).reshape(8, -1)[:, 2:-2].mean(axis=1)
        assert (np.abs(bars - 128) > 60).all()
        seen.append(int(((bars > 128) << np.arange(8)).sum()))
    return seen


def written(path, pictures, times=None, base=Fraction(1, 1000), codec="libx264", **tags):
    """A video with its pictures at the given times; tags go to the codec or to the track."""
    with av.open(str(path), "w") as out:
        options = {"crf": "10", "g": "25", "x265-params": "log-level=none"}
        track = out.add_stream(codec, rate=25, options=options)
        track.height, track.width = pictures[0].shape[:2]
        track.pix_fmt = tags.pop("pix_fmt", "yuv420p")
        turn = tags.pop("turn", None)
        if turn is not None:
            track.set_display_matrix(turn)
        for name, value in tags.items():
            setattr(track.codec_context, name, value)
        track.codec_context.time_base = track.time_base = base
        times = np.arange(len(pictures)) / 25 if times is None else times
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))
            if picture.dtype == np.uint8:
                frame = frame.reformat(format=track.pix_fmt)
            frame.pts, frame.time_base = round(time / base), base
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return str(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """100 numbered frames at 25 a second, four groups of pictures, with sound."""
    path = tmp_path_factory.mktemp("raw") / "plain.mp4"
    sound = np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32)
    with VideoWriter(path, height=HEIGHT, width=WIDTH, fps=25, sound=sound) as out:
        out.append(numbered(100))
    return str(path)


def test_a_plain_video_comes_back_frame_by_frame(plain):
    facts = raw.probe(plain)
    assert (facts.frames, facts.fps, facts.seconds) == (100, 25, 4)
    assert (facts.height, facts.width, facts.sound, facts.transfer) == (HEIGHT, WIDTH, True, None)
    assert numbers(raw.frames(plain, facts, 25, whole=True)) == list(range(100))


@pytest.mark.parametrize("fps", [10, 12.5, 24, 30, 50, 30000 / 1001])
def test_another_rate_shows_the_nearest_picture_without_drift(plain, fps):
    shown = numbers(raw.frames(plain, raw.probe(plain), fps))
    assert abs(len(shown) - 4 * fps) <= 1
    wanted = np.arange(len(shown)) / fps * 25
    assert np.abs(shown - np.minimum(wanted, 99)).max() <= 0.5 + 1e-6


def test_any_part_is_the_same_as_in_the_whole(plain, tmp_path):
    """Seeking, also where groups of pictures lean on each other, and where there is one keyframe."""
    open_groups = tmp_path / "open.mp4"
    written(open_groups, numbered(150), flags=0)
    for path in (plain, str(open_groups)):
        facts = raw.probe(path)
        whole = list(raw.frames(path, facts, 24))
        for first, count in [(0, 5), (49, 7), (60, 1), (71, 20), (len(whole) - 3, 9)]:
            part = list(raw.frames(path, facts, 24, first=first, count=count))
            np.testing.assert_array_equal(part, whole[first : first + count])


def test_variable_frame_rate_keeps_time(tmp_path):
    """Bursts of 50 a second, gaps of 0.3 s, a start at 1.7 s: at k/25 s the nearest picture."""
    steps = np.random.default_rng(1).choice([0.02, 0.04, 0.3], 120, p=[0.45, 0.45, 0.1])
    times = np.cumsum(steps)
    times -= times[0]
    for name in ("a.mp4", "a.mkv"):
        path = written(tmp_path / name, numbered(120), times + 1.7)
        facts = raw.probe(path)
        assert facts.last == pytest.approx(times[-1], abs=2e-3)
        for first in (0, 70):
            shown = numbers(raw.frames(path, facts, 25, first=first))
            at = (first + np.arange(len(shown))) / 25
            nearest = np.abs(times[None] - at[:, None]).min(axis=1)
            assert np.abs(np.abs(times[shown] - at) - nearest).max() <= 2e-3
            assert (first + len(shown)) / 25 == pytest.approx(facts.seconds, abs=0.05)


@pytest.mark.parametrize("quarter_turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_phone_video_is_upright(tmp_path, quarter_turns, mirrored):
    upright = np.full((96, 64, 3), 90, np.uint8)
    upright[:20, :20], upright[:20, -20:], upright[-20:, :20] = 255, (255, 0, 0), (0, 0, 255)
    # Stored as it must be so that mirroring, then turning clockwise, gives it back.
    stored = np.rot90(upright, quarter_turns)
    stored = stored[:, ::-1] if mirrored else stored
    turn = [[1, 0, 0, 1], [0, 1, -1, 0], [-1, 0, 0, -1], [0, -1, 1, 0]][quarter_turns]
    a, b, c, d = turn
    a, b = (-a, -b) if mirrored else (a, b)
    one = 1 << 16
    matrix = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
    path = written(tmp_path / "a.mp4", [stored] * 5, turn=matrix)
    facts = raw.probe(path)
    assert (facts.height, facts.width) == (96, 64)
    seen = next(raw.frames(path, facts, 25))
    assert np.abs(seen.astype(int) - upright).mean() < 12
    seen = next(raw.frames(path, facts, 25, size=(48, 32)))
    assert np.abs(seen.astype(int) - upright[::2, ::2]).mean() < 12


def test_pixels_that_are_not_square_become_so(tmp_path):
    round_shape = np.full((64, 64, 3), 20, np.uint8)
    rows, columns = np.mgrid[:64, :64]
    round_shape[(rows - 31.5) ** 2 + (columns - 31.5) ** 2 < 24**2] = 235
    squeezed = round_shape[:, ::2]
    path = written(tmp_path / "a.mp4", [squeezed] * 5, sample_aspect_ratio=Fraction(2))
    facts = raw.probe(path)
    assert (facts.height, facts.width) == (64, 64)
    seen = next(raw.frames(path, facts, 25))
    assert np.abs(seen.astype(int) - round_shape).mean() < 8


def coded_hdr(linear, transfer):
    """BT.709 light (1 is diffuse white, 203 nits) to BT.2020 codes: BT.2100 written the other way."""
    light = linear @ np.linalg.inv(hdr.TO_BT709.astype(float)).T
    if transfer == "pq":
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        power = (light * 203 / 10_000) ** m1
        return ((c1 + c2 * power) / (1 + c3 * power)) ** m2
    shown = light * 203 / 1000
    luma = shown @ [0.2627, 0.6780, 0.0593]
    scene = shown * luma[..., None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    high = a * np.log(np.maximum(12 * scene - b, 1e-9)) + c
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


@pytest.mark.parametrize("transfer, codec", [("pq", "libx265"), ("hlg", "libx264")])
def test_ordinary_colours_survive_hdr(tmp_path, transfer, codec):
    """What an HDR camera saw at up to 3/4 of diffuse white looks as in ordinary video."""
    shown = np.array([[200, 120, 60], [40, 160, 90], [60, 60, 200], [210, 210, 210]])
    code = coded_hdr((shown / 255.0) ** 2.4, transfer)
    picture = np.repeat(np.repeat(code[None], 64, 0), 24, 1)
    coded = np.round(picture * 65535).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(coded, format="rgb48le")
    wide = frame.reformat(format="yuv420p10le", dst_colorspace=Colorspace.BT2020)
    tags = dict(color_trc=CODES[transfer], color_primaries=9, colorspace=9)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        options = {"crf": "4", "x265-params": "log-level=none"}
        track = out.add_stream(codec, rate=25, options=options)
        track.height, track.width, track.pix_fmt = 64, 96, "yuv420p10le"
        for name, value in tags.items():
            setattr(track.codec_context, name, value)
        track.codec_context.color_range = ColorRange.MPEG
        for index in range(5):
            wide.pts, wide.time_base = index, Fraction(1, 25)
            out.mux(track.encode(wide))
        out.mux(track.encode(None))
    facts = raw.probe(str(path))
    assert facts.transfer == transfer
    seen = next(raw.frames(str(path), facts, 25))
    assert np.abs(seen[32, 12::24].astype(int) - shown).max() <= 8


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_highlights_are_bent_and_never_clipped_or_turned(transfer):
    """Brighter light gives brighter pixels up to 1000 nits; the order of the channels stays."""
    levels = np.linspace(0.01, 4.9, 60)
    light = levels[:, None, None] * np.array([1.0, 0.8, 0.6])
    coded = np.round(coded_hdr(light, transfer) * 65535).astype(np.uint16)
    seen = hdr.to_ordinary(coded, transfer)[:, 0].astype(int)
    assert (np.diff(seen[:, 0]) >= 0).all()
    assert seen[-1, 0] == pytest.approx(255, abs=2)
    assert (seen[:, 0] >= seen[:, 1]).all()
    assert (seen[:, 1] >= seen[:, 2]).all()


def with_late_sound(path, offset, rate=48_000):
    """A flash at 1 s of the picture, a click at the same moment; the track starts at `offset`."""
    pictures = np.zeros((75, HEIGHT, WIDTH, 3), np.uint8)
    pictures[25] = 255
    click = np.zeros(rate * 2, np.float32)
    at = round((1 - offset) * rate)
    click[at : at + 200] = 0.9
    with av.open(str(path), "w") as out:
        track = out.add_stream("libx264", rate=25)
        track.height, track.width, track.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        voice = out.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=rate)
        voice.codec_context.layout = "mono"
        shift = max(0.0, -offset)  # no time in a file is negative
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index + round(shift * 25), Fraction(1, 25)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
        for begin in range(0, len(click), 1024):
            chunk = (click[begin : begin + 1024] * 32767).astype(np.int16)
            sound = av.AudioFrame.from_ndarray(chunk[None], "s16", "mono")
            sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
            sound.pts = begin + round((offset + shift) * rate)
            out.mux(voice.encode(sound))
        out.mux(voice.encode(None))
    return str(path)


@pytest.mark.parametrize("offset", [0.0, 0.52, -0.4])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_sound_keeps_its_place_beside_the_picture(tmp_path, offset, name):
    path = with_late_sound(tmp_path / name, offset)
    facts = raw.probe(path)
    heard = raw.sound(path, facts)
    light = [frame.mean() for frame in raw.frames(path, facts, 25)]
    assert np.flatnonzero(np.array(light) > 128).tolist() == [25]
    loud = np.flatnonzero(np.abs(heard) > 0.3)
    assert loud.min() / 16_000 == pytest.approx(1, abs=0.002)
    assert len(heard) / 16_000 == pytest.approx(2 + offset, abs=0.05)


def test_without_a_sound_track_there_is_none(tmp_path):
    path = written(tmp_path / "a.mp4", numbered(5))
    assert raw.sound(path, raw.probe(path)) is None


def test_one_frame_a_second_and_interlacing_are_seen(tmp_path):
    path = written(tmp_path / "a.mp4", numbered(8), np.arange(8.0))
    assert raw.probe(path).fps == pytest.approx(1, abs=0.2)
    assert not raw.probe(path).interlaced
    with av.open(str(tmp_path / "b.mp4"), "w") as out:
        track = out.add_stream("libx264", rate=25, options={"x264-params": "tff=1"})
        track.height, track.width, track.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for picture in numbered(8):
            out.mux(track.encode(av.VideoFrame.from_ndarray(picture)))
        out.mux(track.encode(None))
    assert raw.probe(str(tmp_path / "b.mp4")).interlaced


def bad_files(plain, folder):
    whole = Path(plain).read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    (folder / "headless.mp4").write_bytes(whole[3000:])
    (folder / "zero.mp4").touch()
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "sound.mp4").write_bytes(Path(example("speech.flac")).read_bytes())
    (folder / "picture.mp4").write_bytes(Path(example("portrait.jpg")).read_bytes())
    (folder / "text.mp4").write_text("#EXTM3U\nhttp://example.invalid/a.ts\n")
    mkv = Path(written(folder / "whole.mkv", numbered(100)))
    (folder / "truncated.mkv").write_bytes(mkv.read_bytes()[: mkv.stat().st_size * 6 // 10])
    mkv.unlink()
    return sorted(folder.iterdir())


def test_what_is_no_whole_video_is_refused_in_one_line(plain, tmp_path):
    refused = {}
    for path in bad_files(plain, tmp_path):
        with pytest.raises(raw.DecodeError) as caught:
            list(raw.frames(str(path), raw.probe(str(path)), 25, whole=True))
        refused[path.name] = str(caught.value)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)
    assert len(refused) == 8
    assert "cut short" in refused["truncated.mp4"]
    assert "no picture track" in refused["sound.mp4"]


def flip_bits(path):
    """Ten bits of its largest packet, a keyframe: libav conceals that, unless it is told not to."""
    with av.open(str(path)) as file:
        largest = max(file.demux(video=0), key=lambda packet: packet.size)
    data = bytearray(path.read_bytes())
    for part in np.linspace(0.3, 0.9, 10):
        data[largest.pos + int(largest.size * part)] ^= 0x10
    path.write_bytes(data)


def test_damage_inside_is_noticed_when_the_whole_is_decoded(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1, HEIGHT, WIDTH, 3), np.uint8)
    path = Path(written(tmp_path / "a.mp4", list(np.repeat(noise, 30, axis=0))))
    flip_bits(path)
    facts = raw.probe(str(path))
    assert len(list(raw.frames(str(path), facts, 25))) == 30
    with pytest.raises(raw.DecodeError):
        list(raw.frames(str(path), facts, 25, whole=True))


def test_our_own_mistake_is_no_decode_error(plain, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(raw, "_turn", broken)
    with pytest.raises(ZeroDivisionError):
        raw.probe(plain)


def test_a_bucket_is_read_through_a_copy_that_goes(cloud, plain):
    remote = storage.join(cloud, "folder/plain.mp4")
    storage.write_bytes(remote, Path(plain).read_bytes())
    with raw.local(remote) as path:
        assert Path(path).read_bytes() == Path(plain).read_bytes()
        assert raw.probe(path) == raw.probe(plain)
    assert not Path(path).parent.exists()
    with raw.local(plain) as path:
        assert path == plain
