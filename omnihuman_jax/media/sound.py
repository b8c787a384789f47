"""The only place that decodes what a user hands in as sound."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Float32

from omnihuman_jax.errors import InputError
from omnihuman_jax.media.files import AnyPath, decoding, existing

# Named, because libav also opens playlists, which lead to other files and to the network.
FORMATS = "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,mov,matroska,avi,flv,mpegts,asf"
WANT = "a wav, mp3, flac, ogg or m4a file, or a video with sound"
MOST_SECONDS = 6 * 3600
RATES = range(1_000, 768_001)  # beyond these a small file could ask for huge filters
MOST_CHANNELS = 64
LOUDEST = 8.0  # a peak of +18 dB happens; more is not sound in [-1, 1]

# How much of its stated length a track may lack: codecs count their own delay in or out.
SLACK = {"flac": 0.01}
USUAL_SLACK = 0.25


def read_audio(
    path: AnyPath, rate: int = 16_000, most_seconds: float | None = None
) -> Float32[np.ndarray, "samples"]:
    """The first sound track, `rate` samples a second, within [-1, 1]; the mean of its channels.

    A track that ends before its file says it does, or is damaged inside, is refused and not read
    in part. Ogg, Matroska, WebM, raw AAC and MP3 without a Xing header do not say: the end of one
    that was cut is taken for its end. An hour at 16 kHz takes 230 MB.

    Raises:
        InputError: no sound in it, damaged, longer than `most_seconds`, or than 6 hours.
    """
    if rate not in RATES:
        raise InputError(f"A rate lies between {RATES.start} and {RATES.stop - 1} Hz, got {rate}.")
    file = existing(path, WANT)
    most_seconds = most_seconds or MOST_SECONDS
    chunks: list[np.ndarray] = []
    samples = 0
    for chunk in _mono(path, file, rate):
        chunks.append(chunk)
        samples += len(chunk)
        if samples > most_seconds * rate:
            most = (
                f"{most_seconds / 3600:g} hours" if most_seconds >= 3600 else f"{most_seconds:g} s"
            )
            raise InputError(f"{path} lasts more than {most}; cut the part to use.")
    if not samples:
        raise InputError(f"{path} has a sound track of no samples; give {WANT}.")
    sound = np.concatenate(chunks)
    peak = np.abs(sound).max()
    if not peak <= LOUDEST:  # also refuses NaN
        raise InputError(f"{path} has samples of {peak:g}; scale the sound to within -1 and 1.")
    return sound.clip(-1, 1)


@contextmanager
def opened(path: AnyPath, file: Path, want: str) -> Iterator[InputContainer]:
    """The media file, opened. What libav raises inside the block becomes an InputError."""
    # "file:" keeps libav from reading a protocol into the name.
    options = {"format_whitelist": FORMATS}
    with decoding(path, want), av.open(f"file:{file}", options=options) as container:
        yield container


def _mono(path: AnyPath, file: Path, rate: int) -> Iterator[Float32[np.ndarray, "samples"]]:
    """A decoded frame at a time. Channels are averaged by us: libav's own sum can exceed 1."""
    # Packed, because PyAV loses the planes of more than seven channels.
    resampler = av.AudioResampler(format="flt", rate=rate)
    for frame in chain(_frames(path, file), [None]):  # None asks for what the filter still holds
        with decoding(path, WANT):
            pieces = resampler.resample(frame)
        for piece in pieces:
            if piece is not None:  # nothing had to be converted, so nothing is held
                yield piece.to_ndarray().reshape(-1, piece.layout.nb_channels).mean(axis=1)


def _frames(path: AnyPath, file: Path) -> Iterator[av.AudioFrame]:
    with opened(path, file, WANT) as container:
        if not container.streams.audio:
            raise InputError(f"{path} has no sound track; give {WANT}.")
        track = container.streams.audio[0]
        if track.codec_context is None:
            raise ValueError("its sound is in a codec that libav does not know")
        if track.codec_context.name == "flac":  # has checksums, which libav ignores by default
            track.codec_context.options = {"err_detect": "crccheck+explode"}
        first: tuple[int, str, str] | None = None
        seconds = Fraction(0)
        for packet in container.demux(track):
            # A wav of unknown length, written to a pipe, ends in a packet that libav calls corrupt.
            if packet.is_corrupt and container.format.name != "wav":
                raise ValueError(f"the sound is damaged after {float(seconds):.2f} s")
            for frame in packet.decode():
                kind = (frame.sample_rate, frame.layout.name, frame.format.name)
                first = first or kind
                if kind != first:
                    raise ValueError(f"its sound changes from {first} to {kind}")
                if frame.sample_rate not in RATES or frame.layout.nb_channels > MOST_CHANNELS:
                    raise ValueError(f"it has sound of {frame.sample_rate} Hz, {frame.layout.name}")
                seconds += Fraction(frame.samples, frame.sample_rate)
                yield frame
        stated = _stated_seconds(file, container.format.name, track)
        if seconds < stated - SLACK.get(container.format.name, USUAL_SLACK):
            raise ValueError(
                f"it says that it lasts {float(stated):.2f} s, but {float(seconds):.2f} s are there"
            )


def _stated_seconds(file: Path, kind: str, track: av.AudioStream) -> Fraction:
    """How long the track is by its file's own account; 0 if the file does not say."""
    if kind == "wav":
        _check_riff(file)
        return Fraction(0)  # libav gives what is there
    if kind == "aac" or (kind == "mp3" and not _has_xing(file)):
        return Fraction(0)  # libav guesses, from the bit rate at the start
    if track.duration is None or track.time_base is None:
        return Fraction(0)
    return track.duration * Fraction(track.time_base.numerator, track.time_base.denominator)


def _check_riff(file: Path) -> None:
    """A wav's header counts its bytes. Programs that write to a pipe put 0, 2^31 or 2^32 there."""
    with file.open("rb") as head:
        counted = int.from_bytes(head.read(8)[4:], "little") + 8
    there = file.stat().st_size
    if there + 1024 < counted < 0x7FFF_0000:  # many headers are some bytes off
        raise ValueError(f"it says that it has {counted} bytes, but {there} are there")


def _has_xing(file: Path) -> bool:
    """Whether an MP3 counts its frames: the Xing or Info tag that encoders put in the first."""
    with file.open("rb") as data:
        head = data.read(10)
        if head[:3] == b"ID3":  # a length of four times 7 bits
            data.seek(10 + sum(byte << 7 * place for place, byte in enumerate(head[:5:-1])))
        else:
            data.seek(0)
        start = data.read(4096)
    return b"Xing" in start or b"Info" in start
