"""The only file that knows the fields of a record: Example ↔ bytes (DESIGN, section 6.3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import BFloat16, Float16

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data import tfrecord, wire
from omnihuman_jax.data.info import DatasetInfo, info_from_shards, read_info, write_info
from omnihuman_jax.data.wire import Feature
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid

__all__ = [
    "DatasetInfo",
    "Example",
    "ShardWriter",
    "bucket_name",
    "info_from_shards",
    "parse",
    "parse_bucket",
    "read_info",
    "serialize",
    "write_info",
]

BFLOAT16, FLOAT16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
ARRAYS = {  # type, and number of axes
    "latents": (BFLOAT16, 4),
    "reference": (BFLOAT16, 4),
    "text_features": (BFLOAT16, 2),
    "audio_features": (BFLOAT16, 3),
    "pose": (FLOAT16, 3),
}
NEEDS = dict(zip(STRENGTH, ("text_features", "reference", "audio_features", "pose"), strict=True))
TEXTS, NUMBERS, SCORE = ("id", "source", "text"), ("frames", "height", "width"), "scores/"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A clip as the networks that encode it left it. Arrays may be read-only views of a record.

    Attributes:
        id: unique in the data set.
        source: the raw video it is from.
        latents: of the clip, normalised by the VAE's statistics.
        reference: latent of the reference image.
        text_features, audio_features: UMT5's, cut to true length; wav2vec 2.0's, at the frame rate.
        pose: x, y in [0, 1] of the frame, and confidence in [0, 1].
        teaches: the conditions that this clip may train.
        scores: each filter's number under its name; float32 in a record.

    Raises:
        InputError: parts that contradict each other.
    """

    id: str
    source: str
    text: str
    latents: BFloat16[np.ndarray, "T H W C"]
    # What these sizes have in common is checked below, also where no test checks types.
    reference: BFloat16[np.ndarray, "1 rows columns channels"] | None
    text_features: BFloat16[np.ndarray, "S E"] | None
    audio_features: BFloat16[np.ndarray, "F layers A"] | None
    pose: Float16[np.ndarray, "frames J 3"] | None
    fps: float
    frames: int
    height: int
    width: int
    teaches: frozenset[str]
    scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise InputError(f"The record {self.id!r} contradicts itself: {problem}.")

    @property
    def grid(self) -> Grid:
        """The size of the clip."""
        return Grid(self.frames, self.height, self.width)

    def _problem(self) -> str:
        size = self.grid.latent_shape
        given = {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        for name, array in given.items():
            dtype, axes = ARRAYS[name]
            if array.dtype != dtype or array.ndim != axes:
                return f"{name} is {array.dtype}{list(array.shape)}, not {dtype} of {axes} axes"
        channels = self.latents.shape[-1:]
        wants: dict[str, tuple[int | None, ...]] = {
            "latents": (*size, None),
            "reference": (1, *size[1:], *channels),
            "audio_features": (self.frames, None, None),
            "pose": (self.frames, None, 3),
        }
        for name, array in given.items():
            for is_, want in zip(array.shape, wants.get(name, ()), strict=False):
                if want is not None and is_ != want:
                    return f"{name} {list(array.shape)} does not fit a clip of {bucket_name(self.grid)}"
        for name in self.teaches:
            if name not in NEEDS:
                return f"it teaches {name!r}; a clip can teach {', '.join(STRENGTH)}"
            if NEEDS[name] not in given:
                return f"it teaches {name} without {NEEDS[name]}"
        if not 0 < self.fps < math.inf:
            return f"its frame rate is {self.fps}"
        wrong = [name for name, score in self.scores.items() if not math.isfinite(score)]
        return f"its score {wrong[0]!r} is no finite number" if wrong else ""


def bucket_name(grid: Grid) -> str:
    """ "FxHxW": the records that may be in one batch."""
    return f"{grid.frames}x{grid.height}x{grid.width}"


def parse_bucket(name: str) -> Grid:
    """The grid that `bucket_name` named.

    Raises:
        InputError: it is no such name.
    """
    sizes = name.split("x")
    if len(sizes) != 3 or not all(size.isascii() and size.isdecimal() for size in sizes):
        raise InputError(f"{name!r} is no size of a clip; it is FRAMESxHEIGHTxWIDTH.")
    return Grid(*map(int, sizes))


def serialize(example: Example) -> bytes:
    """The record of an example: the same example, the same bytes, anywhere."""
    features = {name: _texts([getattr(example, name)]) for name in TEXTS}
    features["teaches"] = _texts([name for name in STRENGTH if name in example.teaches])
    for name in ARRAYS:
        array = getattr(example, name)
        if array is not None:
            raw = (
                np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            )  # little-endian, as we all are
            features[name] = Feature("bytes", (raw.data,))
            features[f"{name}/shape"] = Feature("ints", array.shape)
    for name in NUMBERS:
        features[name] = Feature("ints", (getattr(example, name),))
    features["fps"] = Feature("floats", (example.fps,))
    for name, score in example.scores.items():
        features[SCORE + name] = Feature("floats", (score,))
    return wire.encode(features)


def parse(data: bytes | memoryview | np.ndarray) -> Example:
    """The example of a record. Its arrays are views of `data`: nothing is copied.

    Raises:
        InputError: not a whole record, or one that contradicts itself; one of a newer version.
    """
    fields = Fields(wire.decode(memoryview(data)))
    found: dict[str, Any] = {name: fields.text(name) for name in TEXTS}
    found |= {name: fields.array(name) for name in ARRAYS}
    if found["latents"] is None:
        raise InputError("The record has no latents.")
    found |= {name: fields.one(name, "ints") for name in NUMBERS}
    found["fps"] = fields.one("fps", "floats")
    teaches = frozenset(_decoded("teaches", each) for each in fields.take("teaches", "bytes"))
    scores = fields.scores()
    fields.check_empty()
    return Example(**found, teaches=teaches, scores=scores)


class Fields:
    """The features of a record, taken one by one: what is missing, wrong or left over is an error."""

    def __init__(self, features: dict[str, Feature]) -> None:
        self._left = features

    def take(self, name: str, kind: str) -> tuple[Any, ...]:
        feature = self._left.pop(name, None)
        if feature is None:
            raise InputError(f"The record has no field {name!r}.")
        if feature.kind != kind:
            raise InputError(f"The record's {name!r} holds {feature.kind}, not {kind}.")
        return feature.values

    def one(self, name: str, kind: str) -> Any:
        values = self.take(name, kind)
        if len(values) != 1:
            raise InputError(f"The record's {name!r} has {len(values)} values, not one.")
        return values[0]

    def text(self, name: str) -> str:
        return _decoded(name, self.one(name, "bytes"))

    def array(self, name: str) -> np.ndarray | None:
        if name not in self._left and f"{name}/shape" not in self._left:
            return None
        dtype, axes = ARRAYS[name]
        data, shape = self.one(name, "bytes"), self.take(f"{name}/shape", "ints")
        size = math.prod(shape) * dtype.itemsize
        if len(shape) != axes or min(shape) < 0 or size != len(data):
            raise InputError(
                f"The record's {name!r} has {len(data)} bytes, which is not {dtype}{list(shape)}."
            )
        return np.frombuffer(data, dtype).reshape(shape)

    def scores(self) -> dict[str, float]:
        names = [name for name in self._left if name.startswith(SCORE)]
        return {name.removeprefix(SCORE): self.one(name, "floats") for name in names}

    def check_empty(self) -> None:
        if self._left:
            raise InputError(
                f"The record has a field {min(self._left)!r}, which this program does not know; "
                "update omnihuman_jax."
            )


def _decoded(name: str, value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as why:
        raise InputError(f"The record's {name!r} is not utf-8.") from why


def _texts(values: list[str]) -> Feature:
    try:
        return Feature("bytes", tuple(value.encode() for value in values))
    except UnicodeEncodeError as why:  # from a file name that is not utf-8
        raise InputError(f"{values[0]!r} has characters that are not utf-8; rename it.") from why


class ShardWriter:
    """One shard of a data set of clips, with its index: both appear when the block ends well.

    with ShardWriter("gs://bucket/records", "talk", shard=0, shards=8) as out:
        out.write(example)
    """

    def __init__(self, folder: str, name: str, shard: int, shards: int) -> None:
        self.path = storage.join(folder, tfrecord.shard_file(name, shard, shards))
        self._writer = tfrecord.Writer(self.path, flags=STRENGTH)

    def __enter__(self) -> "ShardWriter":
        self._writer.__enter__()
        return self

    def write(self, example: Example) -> None:
        """Append a clip."""
        bucket = bucket_name(example.grid)
        self._writer.write(serialize(example), bucket=bucket, flags=example.teaches)

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)
