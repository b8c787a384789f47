"""The only place that writes video, with its sound, and that measures what was written."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float32, UInt8

from omnihuman_jax.errors import InputError
from omnihuman_jax.media.files import AnyPath, existing, replacing, writing
from omnihuman_jax.media.sound import RATES, opened

TRACK_RATE = 48_000  # what every player takes
TRACK_BITS = 128_000  # a second
AAC_FRAME = 1024  # samples in a packet
BT709 = 1  # ISO/IEC 23091-2: its primaries, its transfer and its matrix all have number 1
WANT = "an mp4, mov, mkv, webm or avi video"
QUALITY = {"crf": "18", "preset": "medium"}  # about where the eye sees no loss


class VideoWriter:
    """An MP4 file, H.264 with AAC, written chunk by chunk in constant memory.

        with VideoWriter("out.mp4", height=480, width=832, fps=25, sound=speech, rate=16000) as out:
            out.append(frames)

    The file appears when the block ends well. After an error or an interruption there is none, and
    a file of that name from before is still there. The sound starts with the first frame; it is cut,
    or goes on in silence, to the length of the video. `encoding` are options of libx264.

    Raises:
        InputError: a name that does not end in .mp4, an odd or absurd size, a frame rate that is no
            rate, sound that is not finite, no frame, a frame of another size, a full disk.
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        height: int,
        width: int,
        fps: int | float | Fraction,
        sound: Float32[np.ndarray, "samples"] | None = None,
        rate: int = 16_000,
        encoding: Mapping[str, str] = QUALITY,
    ) -> None:
        for name, size in (("height", height), ("width", width)):
            if size % 2 or not 16 <= size <= 8192:
                raise InputError(f"A video's {name} is even, from 16 to 8192; got {size}.")
        if not 1 <= fps <= 240:  # also refuses NaN
            raise InputError(f"A video has a frame rate from 1 to 240, got {fps}.")
        if sound is not None and not np.isfinite(sound).all():
            raise InputError("The sound has samples that are no finite numbers.")
        if rate not in RATES:
            raise InputError(f"A rate lies between {RATES.start} and {RATES.stop - 1}, got {rate}.")
        self.path = path
        self.frames = 0
        self.height, self.width = height, width
        self.fps = Fraction(fps).limit_denominator(1001)  # 29.97002997 is 30000/1001
        self._sound = None if sound is None else (sound, rate)
        self._encoding = dict(encoding)
        self._stack = ExitStack()

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            part = stack.enter_context(replacing(self.path, ".mp4"))
            with writing(self.path):
                self._container: OutputContainer = av.open(
                    f"file:{part}", "w", format="mp4", options={"movflags": "+faststart"}
                )
            stack.push(self._close)
            self._video = _video_track(
                self._container, self.height, self.width, self.fps, self._encoding
            )
            self._track = self._sound and _SoundTrack(self._container, *self._sound)
            self._stack = stack.pop_all()
        return self

    def append(self, frames: UInt8[np.ndarray, "Y X 3"] | UInt8[np.ndarray, "F Y X 3"]) -> None:
        """The next frame, or the next frames."""
        if frames.shape[-3:] != (self.height, self.width, 3):
            raise InputError(
                f"The video has frames of {self.height}x{self.width}x3, got "
                f"{'x'.join(map(str, frames.shape[-3:]))}."
            )
        for pixels in frames.reshape(-1, *frames.shape[-3:]):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = rgb.reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts = self.frames
            frame.time_base = 1 / self.fps
            with writing(self.path):
                self._container.mux(self._video.encode(frame))
                self.frames += 1
                if self._track:
                    self._track.write_until(self._end())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # ExitStack's own __exit__ closes the encoder, then moves or removes the file.
        self._stack.__exit__(kind, error, trace)

    def _end(self) -> int:
        """Sound samples that last as long as the frames so far."""
        return round(self.frames / self.fps * TRACK_RATE)

    def _close(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            _abandon(self._container)
            return
        try:
            if not self.frames:
                raise InputError(
                    f"A video needs at least one frame; none was given for {self.path}."
                )
            with writing(self.path):
                self._container.mux(self._video.encode(None))
                if self._track:
                    self._track.write_until(self._end(), last=True)
                self._container.close()
        except BaseException:
            _abandon(self._container)
            raise


def _video_track(
    container: OutputContainer, height: int, width: int, fps: Fraction, encoding: dict[str, str]
) -> av.VideoStream:
    track = container.add_stream("libx264", rate=fps, options=encoding)
    track.height, track.width, track.pix_fmt = height, width, "yuv420p"
    track.codec_context.time_base = 1 / fps
    # Unless told, players take small videos for BT.601 and large ones for BT.709.
    track.codec_context.colorspace = BT709
    track.codec_context.color_primaries = BT709
    track.codec_context.color_trc = BT709
    track.codec_context.color_range = ColorRange.MPEG
    return track


class _SoundTrack:
    """The sound, encoded as far as it is asked for."""

    def __init__(
        self, container: OutputContainer, sound: Float32[np.ndarray, "samples"], rate: int
    ) -> None:
        self._container = container
        self._track = container.add_stream(
            "aac", rate=TRACK_RATE, layout="mono", format="fltp", bit_rate=TRACK_BITS
        )
        self._chunks = _endless(sound, rate)
        self._pending = np.zeros(0, np.float32)
        self._written = 0

    def write_until(self, end: int, last: bool = False) -> None:
        """Encode whole packets up to sample `end`; with `last`, the rest and what the encoder holds."""
        while (left := end - self._written) >= (1 if last else AAC_FRAME):
            frame = av.AudioFrame.from_ndarray(
                self._take(min(left, AAC_FRAME))[None], "fltp", "mono"
            )
            frame.sample_rate, frame.pts = TRACK_RATE, self._written
            frame.time_base = Fraction(1, TRACK_RATE)
            self._container.mux(self._track.encode(frame))
            self._written += frame.samples
        if last:
            self._container.mux(self._track.encode(None))

    def _take(self, samples: int) -> np.ndarray:
        while len(self._pending) < samples:
            self._pending = np.concatenate([self._pending, next(self._chunks)])
        taken, self._pending = np.split(self._pending, [samples])
        return taken


def _endless(sound: Float32[np.ndarray, "samples"], rate: int) -> Iterator[np.ndarray]:
    """The sound at the track's rate, a second at a time, then silence without end."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=TRACK_RATE)
    for start in range(0, len(sound), rate):
        chunk = np.ascontiguousarray(sound[start : start + rate], np.float32).clip(-1, 1)
        frame = av.AudioFrame.from_ndarray(chunk[None], "fltp", "mono")
        frame.sample_rate, frame.pts = rate, start
        frame.time_base = Fraction(1, rate)
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()[0]
    for piece in resampler.resample(None):
        if piece is not None:  # None: it had this rate already
            yield piece.to_ndarray()[0]
    while True:
        yield np.zeros(TRACK_RATE, np.float32)


def _abandon(container: OutputContainer) -> None:
    """Close without asking whether it worked: the file is about to be removed."""
    with suppress(av.FFmpegError):
        container.close()


@dataclass(frozen=True)
class VideoFacts:
    """What a video file holds."""

    frames: int
    fps: Fraction
    height: int
    width: int
    audio_seconds: float | None  # None without a sound track


def probe_video(path: AnyPath) -> VideoFacts:
    """Counts by decoding everything, so that nothing rests on what a header claims.

    Raises:
        InputError: not a video, or damaged.
    """
    file = existing(path, WANT)
    with opened(path, file, WANT) as container:
        if not container.streams.video:
            raise InputError(f"{path} has no picture track; give {WANT}.")
        video = container.streams.video[0]
        frames, audio = 0, Fraction(0)
        for packet in container.demux(video, *container.streams.audio[:1]):
            if packet.is_corrupt:
                raise ValueError(f"it is damaged after frame {frames}")
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    audio += Fraction(frame.samples, frame.sample_rate)
                else:
                    frames += 1
        rate = video.average_rate
        if not frames or not rate:
            raise ValueError("it has no frames")
        return VideoFacts(
            frames=frames,
            fps=Fraction(rate.numerator, rate.denominator),
            height=video.height,
            width=video.width,
            audio_seconds=float(audio) if container.streams.audio else None,
        )
