"""The only place that decodes raw video: upright frames at a constant rate, and sound on the same clock."""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Colorspace, Interpolation
from jaxtyping import Float32, UInt8

from omnihuman_jax import storage
from omnihuman_jax.data import hdr
from omnihuman_jax.errors import InputError
from omnihuman_jax.media.files import existing
from omnihuman_jax.media.sound import FORMATS

SOUND_RATE = 16_000
WANT = "an mp4, mov, mkv, webm, avi, flv or ts video"
MOST_PIXELS = 2**26  # a frame of 8192x8192; a header that claims more is damaged or an attack
SLACK = 0.5  # seconds that a file may lack of the length it states
GAP = 0.05  # seconds between packets of sound from which silence is put between them
DOWNLOAD = 16 * 2**20

BT470BG, BT709_FROM = 5, 576  # what players take an untagged file for: BT.709 if it is taller
UNTAGGED = 2
DOLBY = (SideData.DOVI_METADATA, SideData.DOVI_RPU_BUFFER)
# Bit-exact and one thread: the same pixels on every worker.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class DecodeError(InputError):
    """The file cannot be decoded, or ends before it says it does. One line."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a raw video is, from its packets and its first frames.

    Attributes:
        frames: pictures stored.
        seconds: from the first picture to the end of the last.
        last: when the last picture begins, after the first.
        fps: pictures a second on average.
        height: upright, in square pixels.
        width: upright, in square pixels.
        bits_per_pixel: of the compressed picture track, for every pixel of every frame.
        sound: there is a sound track.
        transfer: None for ordinary video, or what needs mapping: "pq", "hlg", "bt2020"; "dolby" for
            Dolby Vision without a compatible layer, which nothing here can show.
        interlaced: frames are two half pictures.
        start: presentation time of the first picture, which is time zero everywhere else.
        turn: transpose, flip rows, flip columns: what makes the picture upright.
    """

    frames: int
    seconds: float
    last: Fraction
    fps: float
    height: int
    width: int
    bits_per_pixel: float
    sound: bool
    transfer: str | None
    interlaced: bool
    start: Fraction
    turn: tuple[bool, bool, bool]


@contextlib.contextmanager
def local(path: str) -> Iterator[str]:
    """A local path of the file: itself, or a copy of a gs:// object that goes when the block ends."""
    if not storage.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="omnihuman-") as folder:
        copy = os.path.join(folder, os.path.basename(path))
        reader = storage.Reader(path)
        try:
            with open(copy, "wb") as file:
                for offset in range(0, reader.size, DOWNLOAD):
                    file.write(reader.read(offset, min(DOWNLOAD, reader.size - offset)))
        finally:
            reader.close()
        yield copy


def probe(path: str) -> Facts:
    """Reads every packet, decodes a few frames. Cheap: the disk is the limit.

    Raises:
        DecodeError: no video, nothing in it, or less than its header says.
    """
    with _opened(path) as (container, track):
        sound = bool(container.streams.audio)
        start, last, end, count, size = _scan(path, container, track)
    with _opened(path) as (container, track):
        head = []
        for frame in _decoded(path, container, track):
            head.append(frame)
            if len(head) == 5:
                break
        sample = track.sample_aspect_ratio
    if not head:
        raise DecodeError(f"{Path(path).name} has no frame that can be decoded.")
    first = head[0]
    if not 0 < first.width * first.height <= MOST_PIXELS:
        raise DecodeError(f"{Path(path).name} has frames of {first.width}x{first.height}.")
    ratio = _fraction(sample) if sample and sample.numerator > 0 else Fraction(1)
    height, width = first.height, max(1, round(first.width * ratio))
    turn = _turn(first)
    if turn[0]:
        height, width = width, height
    seconds = float(end - start)
    return Facts(
        frames=count,
        seconds=seconds,
        last=last - start,
        fps=count / seconds,
        height=height,
        width=width,
        bits_per_pixel=8 * size / (count * first.height * first.width),
        sound=sound,
        transfer=_transfer(first),
        interlaced=any(frame.interlaced_frame for frame in head),
        start=start,
        turn=turn,
    )


def frames(
    path: str,
    facts: Facts,
    fps: float,
    *,
    first: int = 0,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    whole: bool = False,
) -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
    """Frames `first` … `first + count - 1` of the video at `fps`, upright, in memory one at a time.

    Frame k is the picture whose presentation time is nearest to k/fps: whatever the file's own times
    are, nothing drifts. `size` is the height and width to scale to (the upright picture's own if not
    given). HDR is mapped to ordinary video (hdr.py). With `whole`, which goes from the first frame to
    the last, damage that libav can notice is an error; a part cannot be held to that, since its first
    frames may lean on frames before the cut.

    Raises:
        DecodeError: damaged, or it decodes to less than its packets promise.
    """
    rate = Fraction(fps).limit_denominator(1001)
    stop = math.ceil(Fraction(facts.seconds) * rate - Fraction(1, 1000))
    stop = max(stop, 1) if count is None else min(max(stop, 1), first + count)
    height, width = size or (facts.height, facts.width)
    shown, pixels = None, None
    for frame in _on_lattice(path, facts, rate, first, stop, whole):
        if frame is not shown or pixels is None:
            pixels = _pixels(path, frame, facts, height, width)
            shown = frame
        yield pixels


def sound(path: str, facts: Facts) -> Float32[np.ndarray, "samples"] | None:
    """The first sound track, 16 kHz, mean of its channels, sample 0 at the first picture's time.

    A track that starts later begins with silence, one that starts earlier is cut. Kept in an unnamed
    file on disk, so that hours of it cost no memory. None without a sound track.

    Raises:
        DecodeError: the track is damaged, or in a codec that libav does not know.
    """
    if not facts.sound:
        return None
    # The mapping outlives the name and the handle.
    with tempfile.TemporaryFile() as file:
        samples = 0
        for chunk in _placed(path, facts.start):
            file.write(chunk.astype(np.float32).tobytes())
            samples += len(chunk)
        file.flush()
        if not samples:
            return np.zeros(0, np.float32)
        return np.memmap(file, np.float32, mode="r", shape=(samples,)).view(np.ndarray)


@contextlib.contextmanager
def _libav(path: str) -> Iterator[None]:
    """The boundary to libav: whatever it raises inside is the file's fault. Nothing else goes inside."""
    try:
        yield
    except DecodeError:
        raise
    except Exception as why:
        said = getattr(why, "strerror", None) or str(why) or type(why).__name__
        reason = " ".join(str(said).split()).rstrip(".")
        raise DecodeError(f"{Path(path).name} cannot be decoded: {reason}.") from why


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The file and its first picture track that is no cover art."""
    try:
        file = existing(path, WANT)
    except InputError as why:
        raise DecodeError(str(why)) from why
    with _libav(path):
        container = av.open(f"file:{file}", options={"format_whitelist": FORMATS})
    with container:
        tracks = [
            track
            for track in container.streams.video
            if track.codec_context is not None
            and not track.disposition & av.stream.Disposition.attached_pic
        ]
        if not tracks:
            raise DecodeError(f"{Path(path).name} has no picture track; give {WANT}.")
        tracks[0].thread_type = "AUTO"
        yield container, tracks[0]


def _scan(
    path: str, container: InputContainer, track: av.VideoStream
) -> tuple[Fraction, Fraction, Fraction, int, int]:
    """When the pictures start, the last starts, and they end; packets; bytes. Refuses a cut file."""
    starts: list[Fraction] = []
    ends: dict[int, Fraction] = {}
    size = 0
    packets = container.demux()
    while True:
        with _libav(path):
            packet = next(packets, None)
        if packet is None:
            break
        if not packet.size or packet.is_discard:  # discard: cut away by an edit list
            continue
        time = packet.pts if packet.pts is not None else packet.dts
        if packet.is_corrupt and packet.stream.index == track.index:
            raise DecodeError(f"{Path(path).name} is damaged after picture {len(starts)}.")
        if time is None or packet.time_base is None:
            continue
        begin = time * _fraction(packet.time_base)
        end = begin + (packet.duration or 0) * _fraction(packet.time_base)
        ends[packet.stream.index] = max(end, ends.get(packet.stream.index, end))
        if packet.stream.index == track.index:
            starts.append(begin)
            size += packet.size
    if not starts:
        raise DecodeError(f"{Path(path).name} has a picture track of no pictures.")
    begin, last = min(starts), max(starts)
    step = (last - begin) / (len(starts) - 1) if len(starts) > 1 else Fraction(1)
    end = ends[track.index] if ends[track.index] > last else last + step  # no lengths given
    stated = _stated(container, track, begin)
    reached = end if track.duration else max(end, *ends.values())
    if reached < stated - Fraction(SLACK):
        raise DecodeError(
            f"{Path(path).name} is cut short: it says that it lasts {float(stated - begin):.2f} s, "
            f"but {float(reached - begin):.2f} s are there."
        )
    return begin, last, end, len(starts), size


def _stated(container: InputContainer, track: av.VideoStream, begin: Fraction) -> Fraction:
    """When the track ends by its file's own account; `begin` if the file does not say."""
    if track.duration:
        return begin + track.duration * _fraction(track.time_base)
    if container.format.name in ("mpegts", "aac") or not container.duration:
        return begin
    # Matroska counts from zero and not from its first picture, so the start is not added.
    return Fraction(container.duration, av.time_base)


def _fraction(value: Any) -> Fraction:
    """PyAV's rational, or Fraction, of which it once gave the one and now the other."""
    return Fraction(value.numerator, value.denominator)


def _decoded(path: str, container: InputContainer, track: Any) -> Iterator[Any]:
    """The frames of a picture or sound track, one after the other."""
    packets = container.demux(track)
    while True:
        with _libav(path):
            packet = next(packets, None)
            decoded = [] if packet is None else packet.decode()
        if packet is None:
            return
        yield from decoded


def _timed(
    path: str, facts: Facts, seek: Fraction | None, whole: bool
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Pictures with their time after the first one's, in order. Pictures without a time are left out."""
    with _opened(path) as (container, track):
        if whole:
            track.codec_context.options = {"err_detect": "explode"}
        if seek is not None:
            with _libav(path):
                base = _fraction(track.time_base)
                container.seek(math.floor((seek + facts.start) / base), stream=track)
        before = None
        for frame in _decoded(path, container, track):
            time = frame.pts if frame.pts is not None else frame.dts
            if time is None or frame.time_base is None:
                continue
            moment = time * _fraction(frame.time_base) - facts.start
            if before is None or moment > before:
                yield moment, frame
                before = moment


def _on_lattice(
    path: str, facts: Facts, rate: Fraction, first: int, stop: int, whole: bool
) -> Iterator[av.VideoFrame]:
    """For each k from `first` to `stop` the picture nearest to k/rate."""
    begin = first / rate
    # Half a second early: where keyframes lean on earlier ones, the first pictures may be missing.
    seek = begin - Fraction(1, 2) if begin > 2 else None
    timed = _timed(path, facts, seek, whole)
    held = next(timed, None)
    if seek is not None and (held is None or held[0] > begin):  # the index of the file is wrong
        timed = _timed(path, facts, None, whole)
        held = next(timed, None)
    if held is None:
        raise DecodeError(f"{Path(path).name} has no frame that can be decoded.")
    place = first
    for moment, frame in timed:
        middle = (held[0] + moment) / 2
        while place < stop and place / rate < middle:
            yield held[1]
            place += 1
        if place >= stop:
            return
        held = (moment, frame)
    if held[0] < facts.last - Fraction(SLACK):
        raise DecodeError(
            f"{Path(path).name} is damaged: it decodes to {float(held[0]):.2f} s of "
            f"{facts.seconds:.2f} s."
        )
    while place < stop:
        yield held[1]
        place += 1


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """From the display matrix: x' = a x + c y, y' = b x + d y, to the nearest right angle."""
    if SideData.DISPLAYMATRIX not in frame.side_data:
        return False, False, False
    matrix = frame.side_data[SideData.DISPLAYMATRIX]
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if abs(int(b)) + abs(int(c)) > abs(int(a)) + abs(int(d)):
        return True, bool(b < 0), bool(c < 0)
    return False, bool(d < 0), bool(a < 0)


def _transfer(frame: av.VideoFrame) -> str | None:
    known = hdr.TRANSFERS.get(frame.color_trc)
    if known:
        return known
    if any(kind in frame.side_data for kind in DOLBY):
        return "dolby"
    return "bt2020" if frame.color_primaries == hdr.BT2020_PRIMARIES else None


def _pixels(
    path: str, frame: av.VideoFrame, facts: Facts, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    transpose, flip_rows, flip_columns = facts.turn
    stored = (width, height) if transpose else (height, width)
    wide = facts.transfer is not None
    with _libav(path):
        untagged = frame.colorspace == UNTAGGED and frame.height > BT709_FROM
        rgb = frame.reformat(
            height=stored[0],
            width=stored[1],
            format="rgb48le" if wide else "rgb24",
            interpolation=SCALING,
            src_colorspace=Colorspace.ITU709 if untagged else None,
            threads=1,
        ).to_ndarray()
    pixels = hdr.to_ordinary(rgb, facts.transfer) if facts.transfer else rgb
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    pixels = pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return np.ascontiguousarray(pixels)


def _placed(path: str, start: Fraction) -> Iterator[Float32[np.ndarray, "samples"]]:
    """The sound at 16 kHz from `start` on, with silence where the track has none."""
    clock: Fraction | None = None  # where the next sample of the file belongs, after `start`
    written, skip = 0, 0
    resampler = av.AudioResampler(format="flt", rate=SOUND_RATE)
    for frame in _sounds(path):
        at = clock or Fraction(0)
        if frame.pts is not None and frame.time_base is not None:
            at = frame.pts * _fraction(frame.time_base) - start
        if clock is None:
            skip = max(0, round(-at * SOUND_RATE))
        elif at < clock - Fraction(GAP):
            continue  # heard already
        if clock is None or at > clock + Fraction(GAP):
            if clock is not None:
                for piece in _resampled(path, resampler, None):
                    written += len(piece)
                    yield piece
                resampler = av.AudioResampler(format="flt", rate=SOUND_RATE)
            silence = max(0, round(at * SOUND_RATE) - written)
            written += silence
            yield np.zeros(silence, np.float32)
            clock = at
        clock += Fraction(frame.samples, frame.sample_rate)
        for piece in _resampled(path, resampler, frame):
            kept = piece[min(skip, len(piece)) :]
            skip -= len(piece) - len(kept)
            written += len(kept)
            yield kept
    for piece in _resampled(path, resampler, None) if clock is not None else ():
        yield piece


def _sounds(path: str) -> Iterator[av.AudioFrame]:
    with _opened(path) as (container, _):
        track = container.streams.audio[0]
        if track.codec_context is None:
            raise DecodeError(f"{Path(path).name} has sound in a codec that libav does not know.")
        yield from _decoded(path, container, track)


def _resampled(
    path: str, resampler: av.AudioResampler, frame: av.AudioFrame | None
) -> Iterator[Float32[np.ndarray, "samples"]]:
    with _libav(path):
        pieces = resampler.resample(frame)
    for piece in pieces:
        if piece is None:  # nothing had to be converted, so nothing is held
            continue
        # Channels are averaged by us: libav's own sum can exceed 1.
        mono = piece.to_ndarray().reshape(-1, piece.layout.nb_channels).mean(axis=1)
        if not np.isfinite(mono).all():
            raise DecodeError(f"{Path(path).name} has sound that is not finite.")
        yield mono.astype(np.float32).clip(-1, 1)
