"""Sound: every format and rate gives the same samples, mono is a mean, and no part passes for the whole."""

import struct

import av
import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.media import example, read_audio, sound

RATE = 16_000


def tone(rate, seconds=1.0, hertz=440.0, amplitude=0.5):
    """A sine that fades in and out, so that its ends do not ring when it is resampled."""
    time = np.arange(round(rate * seconds)) / rate
    return (amplitude * np.sin(np.pi * time / seconds) * np.sin(2 * np.pi * hertz * time)).astype(
        "f4"
    )


def write_wav(path, channels, rate, kind="f4"):
    """A RIFF file by hand: `channels` x samples, 32-bit floats or 16-bit integers."""
    channels = np.atleast_2d(channels)
    data = (channels.T * 32767).round() if kind == "i2" else channels.T
    data = np.ascontiguousarray(data, "<" + kind).tobytes()
    width = int(kind[1])
    block = len(channels) * width
    head = struct.pack(
        "<HHIIHH", 3 if kind == "f4" else 1, len(channels), rate, rate * block, block, width * 8
    )
    body = (
        b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data)) + data
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def encode(path, codec, samples, rate):
    """Through libav, for the formats that cannot be written by hand."""
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(track.format, "mono", rate, track.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        frame.sample_rate, frame.pts = rate, 0
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(track.encode(piece))
        container.mux(track.encode(None))
    return path


def cut(path, part):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


@pytest.mark.parametrize("kind, error", [("f4", 0), ("i2", 1 / 32767)])
def test_a_wav_of_the_same_rate_is_read_exactly(tmp_path, kind, error):
    samples = tone(RATE)
    read = read_audio(write_wav(tmp_path / "a.wav", samples, RATE, kind))
    assert read.shape == samples.shape
    assert np.abs(read - samples).max() <= error


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_the_wave_its_length_and_its_place(tmp_path, rate):
    read = read_audio(write_wav(tmp_path / "a.wav", tone(rate), rate), RATE)
    assert abs(len(read) - RATE) <= 1
    assert np.abs(read[:RATE] - tone(RATE)[: len(read)]).max() < 1e-3


def test_resampling_does_not_alias(tmp_path):
    """15 kHz cannot be told at 16 kHz, where it would fold to 1 kHz."""
    read = read_audio(write_wav(tmp_path / "a.wav", tone(48_000, hertz=15_000), 48_000), RATE)
    assert np.abs(read).max() < 2e-3


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7, 8, 9, 64])
def test_mono_is_the_mean_of_the_channels(tmp_path, rate, channels):
    track = [tone(rate, 0.1, 300 + 10 * index, 0.9) for index in range(channels)]
    read = read_audio(write_wav(tmp_path / "a.wav", np.stack(track), rate))
    mean = read_audio(write_wav(tmp_path / "b.wav", np.mean(track, axis=0), rate))
    np.testing.assert_allclose(read, mean, atol=1e-6)


@pytest.mark.parametrize(
    "suffix, codec, rate, floor",
    [
        ("flac", "flac", 44_100, 0.9999),
        ("aiff", "pcm_s16be", 44_100, 0.9999),
        ("mp3", "libmp3lame", 44_100, 0.999),
        ("m4a", "aac", 44_100, 0.999),
        ("ogg", "libopus", 48_000, 0.999),
        ("mka", "aac", 44_100, 0.999),
    ],
)
def test_every_format_gives_the_same_wave(tmp_path, suffix, codec, rate, floor):
    read = read_audio(encode(tmp_path / f"a.{suffix}", codec, tone(rate, 2.0), rate), RATE)
    length = min(len(read), 2 * RATE)
    assert abs(len(read) - 2 * RATE) < RATE * 0.06
    assert np.corrcoef(read[:length], tone(RATE, 2.0)[:length])[0, 1] > floor


def test_loud_sound_is_held_to_one_and_absurd_sound_refused(tmp_path):
    assert np.abs(read_audio(write_wav(tmp_path / "a.wav", 3 * tone(RATE), RATE))).max() == 1
    with pytest.raises(InputError, match="scale the sound"):
        read_audio(write_wav(tmp_path / "b.wav", 32767 * tone(RATE), RATE))
    with pytest.raises(InputError, match="scale the sound"):
        read_audio(write_wav(tmp_path / "c.wav", np.full(100, np.nan), RATE))


@pytest.mark.parametrize("suffix, codec", [("flac", "flac"), ("mp3", "libmp3lame"), ("m4a", "aac")])
def test_a_truncated_track_is_refused(tmp_path, suffix, codec):
    path = encode(tmp_path / f"a.{suffix}", codec, tone(44_100, 2.0), 44_100)
    read_audio(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_audio(cut(path, 0.6))


def test_a_truncated_wav_is_refused_but_not_one_of_unknown_length(tmp_path):
    """A program that writes to a pipe cannot know the length and leaves a placeholder."""
    whole = write_wav(tmp_path / "a.wav", tone(RATE), RATE)
    for placeholder in (0, 0x7FFF_F000, 0xFFFF_FFFF):
        content = bytearray(whole.read_bytes())
        content[4:8] = content[40:44] = struct.pack("<I", placeholder)
        (tmp_path / "piped.wav").write_bytes(content)
        assert len(read_audio(tmp_path / "piped.wav")) == RATE
    with pytest.raises(InputError, match="says that it has"):
        read_audio(cut(whole, 0.6))


def test_a_damaged_flac_is_refused(tmp_path):
    """libav leaves the damaged frame out, which would move all that follows."""
    path = encode(tmp_path / "a.flac", "flac", tone(44_100, 2.0), 44_100)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_audio(path)


def test_an_mp3_tells_whether_it_knows_its_length(tmp_path):
    path = encode(tmp_path / "a.mp3", "libmp3lame", tone(44_100), 44_100)
    assert sound._has_xing(path)
    bare = path.read_bytes().replace(b"Xing", b"\0" * 4).replace(b"Info", b"\0" * 4)
    path.write_bytes(bare)
    assert not sound._has_xing(path)
    read_audio(path)


def test_what_has_no_sound_is_refused_in_one_line(tmp_path, capfd):
    (tmp_path / "text.wav").write_text("hello\n" * 100)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    write_wav(tmp_path / "none.wav", np.zeros(0), RATE)
    write_wav(tmp_path / "slow.wav", tone(1000), 3)
    write_wav(tmp_path / "many.wav", np.zeros((65, 9)), RATE)
    unknown = bytearray(write_wav(tmp_path / "codec.wav", tone(RATE), RATE).read_bytes())
    unknown[20:22] = b"\x34\x12"
    (tmp_path / "codec.wav").write_bytes(unknown)
    picture = example("portrait.jpg")
    for path in [*tmp_path.iterdir(), picture, tmp_path, tmp_path / "missing.wav"]:
        with pytest.raises(InputError) as caught:
            read_audio(path)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_name_is_no_address(tmp_path, monkeypatch):
    """libav would take what stands before a colon for a protocol."""
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "concat:100%d|pipe.wav", tone(RATE), RATE)
    assert len(read_audio("concat:100%d|pipe.wav")) == RATE


def test_an_absurd_length_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sound, "MOST_SECONDS", 1)
    read_audio(write_wav(tmp_path / "a.wav", tone(RATE), RATE))
    with pytest.raises(InputError, match="lasts more than"):
        read_audio(write_wav(tmp_path / "b.wav", tone(RATE, 1.1), RATE))


def test_an_absurd_rate_is_refused():
    with pytest.raises(InputError, match="0"):
        read_audio(example("speech.flac"), 0)
