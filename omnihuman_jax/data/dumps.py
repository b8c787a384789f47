"""The only place that knows a teacher's dump: what a teacher made of noise, to distil a student from.

A dump is a data set of kind "teacher": shards as tfrecord.py has them, `dataset.json`, and one file
NAME.shared with what all samples have in common, the negative context (8 MB in Wan's case, as much as
all else in a sample together). Every record holds the checksum of the shared file it belongs to.
"""

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float32

from omnihuman_jax import storage, torch_zip
from omnihuman_jax.data import info as dataset
from omnihuman_jax.data import records, tfrecord, wire
from omnihuman_jax.data.info import DatasetInfo
from omnihuman_jax.data.source import RecordSource
from omnihuman_jax.data.wire import Feature
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import SPATIAL, TEMPORAL, Grid
from omnihuman_jax.torch_files import Tensor
from omnihuman_jax.torch_pickle import Entry

WAN_FPS = 16.0
PT_KEYS = (
    "dummy_data",
    "noise",
    "dummy_prompts",
    "positive_contexts",
    "negative_context",
    "v_teacher",
)
PT_TIME, PT_GUIDANCE = 0.999, 7.5  # of every sample; the file does not say
MOST_SHARDS = 256  # all are open at a time
FLOAT32 = np.dtype(np.float32)
ARRAYS = {  # type, and number of axes
    "noise": (FLOAT32, 4),
    "latents": (FLOAT32, 4),
    "v_teacher": (FLOAT32, 4),
    "positive_context": (FLOAT32, 2),
}
EXTRA = "extras/"
NAMES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in NAMES}  # of other arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherSample:
    """What a teacher predicts for one noise. Arrays may be read-only views of a record.

    The clean estimate of a one-step student is `x0 = noise - v_teacher` at t = 1. Two things to know
    of the original project's dumps (research/papers.md, section 4.3):

    * Their contexts are all 512 rows that T5 gives, those of padding among them, where Wan's own
      inference cuts at the text's length and goes on in zeros; `context_length` is then None.
    * They hold one velocity at one time. That is where a student's regression may start from, and
      not the target of a consistency loss, which needs the teacher's path between two times.

    Attributes:
        id: unique in the data set.
        noise: what the teacher was given, at time t.
        latents: the clean latents behind `noise`, if there were any.
        v_teacher: its velocity, guided: v_without + guidance * (v_with - v_without).
        t: in [0, 1], 1 is noise; Wan's timestep over 1000.
        guidance: scale of classifier-free guidance in `v_teacher`; 1 for none.
        positive_context: features of the prompt.
        context_length: the first so many rows are the prompt's; None if nobody knows.
        negative_context: features of the negative prompt, the same for all samples of a data set.
        extras: other arrays by name.

    Raises:
        InputError: parts that contradict each other.
    """

    id: str
    prompt: str
    noise: Float32[np.ndarray, "T H W C"]
    latents: Float32[np.ndarray, "T H W C"] | None = None
    v_teacher: Float32[np.ndarray, "T H W C"]
    t: float
    guidance: float
    positive_context: Float32[np.ndarray, "S E"]
    context_length: int | None = None
    negative_context: Float32[np.ndarray, "N E"]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise InputError(f"The teacher's sample {self.id!r} contradicts itself: {problem}.")

    @property
    def grid(self) -> Grid:
        """The size of the clip that the latents are of."""
        frames, rows, columns, _ = self.noise.shape
        return Grid((frames - 1) * TEMPORAL + 1, rows * SPATIAL, columns * SPATIAL)

    def _problem(self) -> str:
        for name in ("v_teacher", "latents"):
            array = getattr(self, name)
            if array is not None and array.shape != self.noise.shape:
                return f"{name} is {list(array.shape)}, the noise {list(self.noise.shape)}"
        if self.negative_context.shape[1] != self.positive_context.shape[1]:
            return "its two contexts are not of one width"
        if not 0 <= self.t <= 1:
            return f"t is {self.t}, not within 0 and 1"
        if not math.isfinite(self.guidance):
            return f"its guidance is {self.guidance}"
        if not 0 <= (self.context_length or 0) <= len(self.positive_context):
            return f"its context of {len(self.positive_context)} rows has {self.context_length}"
        for name, array in self.extras.items():
            if str(array.dtype) not in DTYPES:
                return f"{name} is {array.dtype}; {', '.join(DTYPES)} can be kept"
        return ""


def serialize(sample: TeacherSample, shared: int) -> bytes:
    """The record of a sample, without its negative context: the same sample, the same bytes.

    `shared` is the checksum of the file that holds the negative context.
    """
    arrays = {name: getattr(sample, name) for name in ARRAYS if getattr(sample, name) is not None}
    arrays |= {EXTRA + name: array for name, array in sample.extras.items()}
    # As an array: the numbers of an Example are float32, and 0.999 would come back as another.
    arrays["numbers"] = np.array([sample.t, sample.guidance])
    features = {
        "id": _texts([sample.id]),
        "prompt": _texts([sample.prompt]),
        "arrays": _texts(sorted(arrays)),
        "context_length": Feature(
            "ints", () if sample.context_length is None else (sample.context_length,)
        ),
        "shared": Feature("ints", (shared,)),
    }
    for name, array in arrays.items():
        features |= _packed(name, array)
    return wire.encode(features)


def parse(
    data: bytes | memoryview | np.ndarray, negative_context: Float32[np.ndarray, "N E"], shared: int
) -> TeacherSample:
    """The sample of a record. Its arrays are views of `data`: nothing is copied.

    Raises:
        InputError: not a whole record, one of another dump than `shared`, one of a newer version.
    """
    fields = records.Fields(wire.decode(memoryview(data)))
    if fields.one("shared", "ints") != shared:
        raise InputError("it does not belong to this negative context, but to another dump")
    id, prompt = fields.text("id"), fields.text("prompt")
    lengths = fields.take("context_length", "ints")
    names = [str(name, "utf-8", "replace") for name in fields.take("arrays", "bytes")]
    arrays: dict[str, Any] = {name: _unpacked(fields, name) for name in names}
    fields.check_empty()
    numbers = arrays.pop("numbers", np.zeros(0))
    extras = {
        name.removeprefix(EXTRA): arrays.pop(name) for name in names if name.startswith(EXTRA)
    }
    kinds = {name: (array.dtype, array.ndim) for name, array in arrays.items()}
    wrong = kinds.items() - ARRAYS.items()
    if wrong or not {*ARRAYS} - {"latents"} <= kinds.keys():
        raise InputError(
            f"The record's arrays {sorted(kinds)} are not those of a teacher's sample."
        )
    if numbers.dtype != np.float64 or numbers.shape != (2,) or len(lengths) > 1:
        raise InputError("The record's numbers are not t and guidance.")
    return TeacherSample(
        id=id,
        prompt=prompt,
        **{name: arrays[name] for name in ARRAYS if name in arrays},
        t=float(numbers[0]),
        guidance=float(numbers[1]),
        context_length=lengths[0] if lengths else None,
        negative_context=negative_context,
        extras=extras,
    )


def _texts(values: Sequence[str]) -> Feature:
    return Feature("bytes", tuple(value.encode("utf-8", "replace") for value in values))


def _packed(name: str, array: np.ndarray) -> dict[str, Feature]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {
        name: Feature("bytes", (little.reshape(-1).view(np.uint8).data,)),
        f"{name}/shape": Feature("ints", array.shape),
        f"{name}/dtype": _texts([str(array.dtype)]),
    }


def _unpacked(fields: records.Fields, name: str) -> np.ndarray:
    data, shape = fields.one(name, "bytes"), fields.take(f"{name}/shape", "ints")
    dtype = DTYPES.get(fields.text(f"{name}/dtype"))
    if dtype is None or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise InputError(f"The record's {name!r} has {len(data)} bytes, not {dtype}{list(shape)}.")
    return np.frombuffer(data, dtype).reshape(shape)


def common(negative_context: Float32[np.ndarray, "N E"]) -> tuple[bytes, int]:
    """What all samples of a dump have in common, as it is kept, and its checksum."""
    data = wire.encode(_packed("negative_context", negative_context))
    return data, tfrecord.masked_crc(data)


def write_shard(
    folder: str, name: str, shard: int, shards: int, samples: Iterable[TeacherSample], shared: int
) -> None:
    """One shard of a dump that several processes write, or several lives of one.

    It is whole when its index is there (`has_shard`), and the dump when `finish_dump` has run. `shared` is
    the checksum of what all samples have in common (`common`).
    """
    path = storage.join(folder, tfrecord.shard_file(name, shard, shards))
    with tfrecord.Writer(path) as out:
        for sample in samples:
            out.write(serialize(sample, shared), bucket=records.bucket_name(sample.grid))


def has_shard(folder: str, name: str, shard: int, shards: int) -> bool:
    """Whether a shard is there, and whole."""
    path = storage.join(folder, tfrecord.shard_file(name, shard, shards))
    return storage.is_file(path) and storage.is_file(tfrecord.index_path(path))


def finish_dump(
    folder: str,
    name: str,
    shards: int,
    negative_context: Float32[np.ndarray, "N E"],
    *,
    channels: int,
    fps: float = WAN_FPS,
    fingerprints: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> DatasetInfo:
    """What makes a dump of its shards: the negative context, and `dataset.json`, which comes last.

    Raises:
        InputError: a shard is missing or not whole.
    """
    storage.write_bytes(_shared_path(folder, name), common(negative_context)[0])
    made = records.info_from_shards(
        folder,
        name,
        shards,
        fingerprints or {},
        fps=fps,
        channels=channels,
        kind="teacher",
        settings=settings,
    )
    records.write_info(folder, made)
    return made


def write_dump(
    folder: str,
    samples: Iterable[TeacherSample],
    name: str = "teacher",
    shards: int = 1,
    *,
    fps: float = WAN_FPS,
    fingerprints: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> DatasetInfo:
    """Write a dump, one sample in memory at a time; sample i goes to shard i modulo `shards`.

    It is whole when `dataset.json` is there, which comes last; what an interruption left is written over.

    Raises:
        InputError: no samples, a data set in `folder` already, samples of several negative contexts or
            numbers of channels.
    """
    if storage.is_file(storage.join(folder, dataset.FILE)):
        raise InputError(f"There is a data set in {folder} already; choose another folder.")
    iterator = iter(samples)
    first = next(iterator, None)
    if first is None:
        raise InputError("A dump has at least one sample; none was given.")
    _, shared = common(first.negative_context)
    if not 1 <= shards <= MOST_SHARDS:
        raise InputError(f"A dump has 1 to {MOST_SHARDS} shards, got {shards}.")
    files = [tfrecord.shard_file(name, shard, shards) for shard in range(shards)]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(tfrecord.Writer(storage.join(folder, file))) for file in files
        ]
        for number, sample in enumerate(itertools.chain([first], iterator)):
            if sample.noise.shape[-1] != first.noise.shape[-1]:
                raise InputError(
                    f"Sample {sample.id} has latents of another width than {first.id}."
                )
            if not _same(sample.negative_context, first.negative_context):
                raise InputError(
                    f"Sample {sample.id} has another negative context than {first.id}."
                )
            bucket = records.bucket_name(sample.grid)
            writers[number % shards].write(serialize(sample, shared), bucket=bucket)
    return finish_dump(
        folder,
        name,
        shards,
        first.negative_context,
        channels=first.noise.shape[-1],
        fps=fps,
        fingerprints=fingerprints,
        settings=settings,
    )


def _shared_path(folder: str, name: str) -> str:
    return storage.join(folder, f"{name}.shared")


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit."""
    return a is b or (a.shape == b.shape and a.tobytes() == b.tobytes())


class DumpSource(RecordSource):
    """All samples of a dump by number, in the order of its shards; as RecordSource has clips.

    Attributes:
        negative_context: that of every sample.

    Raises:
        InputError: as RecordSource; no file of the negative context, or a damaged one.
    """

    KIND = "teacher"

    negative_context: Float32[np.ndarray, "N E"]

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        path = _shared_path(uri, self.info.name)
        data = storage.read_bytes(path)
        self._shared = tfrecord.masked_crc(data)
        try:
            self.negative_context = _unpacked(
                records.Fields(wire.decode(memoryview(data))), "negative_context"
            )
        except InputError as why:
            raise InputError(f"{path} is damaged: {why} Copy it again.") from why

    def __getitem__(self, index: Any) -> TeacherSample:  # type: ignore[override]
        """Raises: InputError: the record is damaged or was replaced; ConnectionError: out of reach."""
        return self._read(index, lambda data: parse(data, self.negative_context, self._shared))


def import_pt(
    path: str, *, t: float = PT_TIME, guidance: float = PT_GUIDANCE
) -> Iterator[TeacherSample]:
    """The samples of the original project's `dummy_data_480x832.pt`, read without torch, one at a time.

    Its `[N C T H W]` becomes `[T H W C]`, once, here. `dummy_data` becomes `latents` where it is not
    the noise again, which it is in every dump that their script writes. Time and guidance are not in
    the file: by default what the script has. See TeacherSample for what such a dump can be used for.

    Raises:
        InputError: not an archive of torch, other keys, shapes that do not fit, numbers that are not
            float32 or not finite.
    """
    file = storage.Reader(path)
    try:
        content = torch_zip.contents(file)
        count = _check_pt(path, content)
        prompts = content["dummy_prompts"]
        data, noise, v = (_tensor(content[k], file) for k in ("dummy_data", "noise", "v_teacher"))
        negative = _finite(
            path, "negative_context", _tensor(content["negative_context"], file).read()
        )
        for i in range(count):
            latents, start, velocity = (
                _finite(path, f"{each.name}[{i}]", _channels_last(each.rows(i, i + 1)))
                for each in (data, noise, v)
            )
            context = _tensor(content["positive_contexts"][i], file).read()
            yield TeacherSample(
                id=f"{i:05d}",
                prompt=prompts[i],
                noise=start,
                latents=None if _same(latents, start) else latents,
                v_teacher=velocity,
                t=t,
                guidance=guidance,
                positive_context=_finite(path, f"positive_contexts[{i}]", context),
                negative_context=negative,
            )
    finally:
        file.close()


def _tensor(entry: Entry, file: storage.Reader) -> Tensor:
    return Tensor(*entry, file)


def _check_pt(path: str, content: Any) -> int:
    """How many samples there are, if all parts are there and fit."""
    if not isinstance(content, dict) or content.keys() != {*PT_KEYS}:
        there = ", ".join(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"{path} is no dump of the original project: it has {there}, not {', '.join(PT_KEYS)}."
        )
    tensors = {
        name: content[name] for name in ("dummy_data", "noise", "v_teacher", "negative_context")
    }
    contexts, prompts = content["positive_contexts"], content["dummy_prompts"]
    if not isinstance(contexts, list) or not isinstance(prompts, list):
        raise InputError(f"{path}: positive_contexts and dummy_prompts are lists, not one value.")
    tensors |= {f"positive_contexts[{i}]": each for i, each in enumerate(contexts)}
    for name, entry in tensors.items():
        if not isinstance(entry, tuple):  # what stands for a tensor
            raise InputError(f"{path}: {name} is {type(entry).__name__}, not a tensor.")
        if entry[2] != FLOAT32:
            raise InputError(f"{path}: {name} is {entry[2]}, not float32.")
    shapes = {name: list(entry[1]) for name, entry in tensors.items()}
    noise, context = shapes["noise"], shapes["negative_context"]
    if len(noise) != 5 or 0 in noise or len(context) != 2 or 0 in context:
        raise InputError(
            f"{path}: noise is {noise} and negative_context {context}, not [N C T H W] and [S E]."
        )
    for name, shape in shapes.items():
        want = context if name.startswith("positive") else noise
        if shape != want and name != "negative_context":
            raise InputError(f"{path}: {name} is {shape}, not {want}.")
    if not len(prompts) == len(contexts) == noise[0]:
        raise InputError(
            f"{path} has {len(prompts)} prompts and {len(contexts)} contexts for {noise[0]} noises."
        )
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"{path}: dummy_prompts are not all text.")
    return noise[0]


def _channels_last(array: Float32[np.ndarray, "1 C T H W"]) -> Float32[np.ndarray, "T H W C"]:
    return np.ascontiguousarray(array[0].transpose(1, 2, 3, 0))


def _finite(path: str, name: str, array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise InputError(f"{path}: {name} has values that are no finite numbers.")
    return array
