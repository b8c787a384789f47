"""Released torch checkpoints -> a model directory, in one pass and little memory; resumes if stopped.

Every file is read once, from its start to its end, a piece of at most 64 MB at a time. A piece is
checked, transposed and written as finished chunk files, so what an interrupted conversion has written
stands, and the next one goes on behind it. Data types stay as they are in the source.
"""

import errno
import hashlib
import importlib.metadata
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from omnihuman_jax import hub, orbax_layout, storage, torch_files
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import directory
from omnihuman_jax.models.manifest import CONFIG_KEY, KINDS, SAMPLING, Manifest, from_json
from omnihuman_jax.orbax_layout import StoredArray
from omnihuman_jax.torch_files import Checkpoint, Tensor
from omnihuman_jax.weights import Place, Rule, plan

TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_SOURCE = "source.json"  # in an unfinished directory: what it is made from
_IN_FLIGHT = 8  # chunks waiting to be written


@dataclass(frozen=True)
class Found:
    """A network in the source."""

    network: str  # its folder in the model directory
    config: Any
    layout: str
    checkpoint: Checkpoint
    places: Mapping[str, Place]  # of every tensor that is converted
    arrays: Mapping[str, StoredArray]

    @property
    def nbytes(self) -> int:
        return sum(self.checkpoint.tensors[name].nbytes for name in self.places)


def convert(
    source: str,
    destination: str,
    *,
    audio_encoder: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> directory.ModelDirectory:
    """Convert every network at `source` into one model directory at `destination`.

    Args:
        source: a folder or file, local or gs://, or a repository of the Hugging Face hub such as
            Wan-AI/Wan2.1-T2V-1.3B; in the layout of Wan, diffusers or transformers.
        destination: local or gs://.
        audio_encoder: a second source, with a wav2vec 2.0.
        overwrite: replace the model directory at `destination`.
        progress: show a bar on stderr.

    Raises:
        InputError: a source that is missing, damaged or not of our networks; a destination that is
            taken; a full disk.
    """
    draft = directory.start(destination, overwrite=overwrite)
    roots = [hub.local(place) for place in (source, audio_encoder) if place is not None]
    found = [network for root in roots for network in find_networks(root)]
    _refuse_twins(found)
    _open_draft(draft, found)
    _check_room(draft, found)
    try:
        with tqdm(
            total=sum(network.nbytes for network in found),
            unit="B",
            unit_scale=True,
            disable=not progress,
            desc="Converting",
        ) as bar:
            files = [entry for network in found for entry in _write(network, draft, bar)]
        for entry in files:
            for root in roots:
                entry["file"] = entry["file"].removeprefix(root.rstrip("/") + "/")
        tokenizer = _copy_tokenizer(roots, draft)
        manifest = Manifest(
            configs={network.network: network.config for network in found},
            weights=dict.fromkeys((network.network for network in found), "orbax"),
            tokenizer=tokenizer,
            # Wan was trained with an empty prompt for "no text", not with no features.
            sampling=dict(SAMPLING) | {"negative_text": ""},
            provenance={
                "source": source,
                "audio_encoder": audio_encoder,
                "converted_by": f"omnihuman_jax {importlib.metadata.version('omnihuman_jax')}",
                "files": files,
            },
        )
        storage.remove(storage.join(draft, _SOURCE))
        directory.finish(draft, destination, manifest)
    except OSError as why:
        if why.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"The disk of {destination} is full. Make room and give the same command again: it goes "
            f"on where it stopped. (Or remove {draft}.)"
        ) from why
    finally:
        for network in found:
            network.checkpoint.close()
    return directory.open_directory(destination)


def find_networks(root: str) -> list[Found]:
    """The networks in the checkpoint files at `root`, recognised by their tensors.

    Raises:
        InputError: no checkpoint at all, or one that is none of our networks.
    """
    checkpoints = torch_files.find_checkpoints(root)
    if not checkpoints:
        raise InputError(
            f"{root} holds no checkpoint; give a folder or file with *.safetensors, *.pth or "
            "pytorch_model.bin, or a repository such as Wan-AI/Wan2.1-T2V-1.3B."
        )
    opened = [torch_files.open_checkpoint(name, files) for name, files in checkpoints]
    conditions = [checkpoint for checkpoint in opened if CONFIG_KEY in checkpoint.metadata]
    found, unknown = [], []
    for checkpoint in opened:
        if checkpoint in conditions:
            continue
        if network := _recognise(checkpoint, conditions):
            found.append(network)
        else:
            unknown.append(checkpoint)
    for checkpoint in unknown:
        some = ", ".join(list(checkpoint.tensors)[:3])
        raise InputError(
            f"{checkpoint.name} is no network that we know: {len(checkpoint.tensors)} tensors such as "
            f"{some}. Known are Wan2.1's text-to-video transformer, VAE and UMT5, wav2vec 2.0, and the "
            "networks of metrics."
        )
    return found


def _recognise(checkpoint: Checkpoint, conditions: Sequence[Checkpoint]) -> Found | None:
    settings_path = storage.join(checkpoint.files[0].rpartition("/")[0] or ".", "config.json")
    settings = {}
    if storage.is_file(settings_path):
        try:
            settings = json.loads(storage.read_bytes(settings_path))
        except ValueError as why:
            raise InputError(f"{settings_path} is not valid JSON ({why}).") from why
    for network, kind in KINDS.items():
        try:
            recognised = kind.names.recognise(checkpoint.shapes, settings)
            if recognised is not None:
                config, layout = recognised
                ours = conditions if network == "dit" else ()
                return _planned(network, checkpoint, config, layout, ours)
        except InputError as why:
            raise InputError(f"{checkpoint.name}: {why}") from why
    return None


def _planned(
    network: str,
    checkpoint: Checkpoint,
    config: Any,
    layout: str,
    conditions: Sequence[Checkpoint],
) -> Found:
    """Where each tensor goes, after checking that all fit. `conditions` are files of `export`, with
    the parameters that only we have."""
    kind = KINDS[network]
    rules = kind.names.torch_rules(config, layout)
    for ours in conditions:
        values = json.loads(ours.metadata[CONFIG_KEY])
        config = from_json(kind.config, values, ours.name)
        rules = rules + [Rule(path, path) for path in ours.tensors]
        checkpoint = Checkpoint(
            checkpoint.name,
            {**checkpoint.tensors, **ours.tensors},
            checkpoint.files + ours.files,
            checkpoint.metadata,
        )
    unneeded = [re.compile(pattern) for pattern in getattr(kind.names, "IGNORED", ())]
    tensors = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not any(pattern.fullmatch(name) for pattern in unneeded)
    }
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    params = directory.param_shapes(network, config)
    places = plan(shapes, rules, params)
    arrays: dict[str, StoredArray] = {}
    for name, place in places.items():
        dtype, stacked = tensors[name].dtype, place.row is not None
        array = orbax_layout.chunked(
            place.path, params[place.path], dtype, stacked=stacked, axis=_axis(place)
        )
        if arrays.setdefault(place.path, array).dtype != dtype:
            raise InputError(
                f"Tensor {name} is {dtype}, other layers of it are not; mend the source."
            )
    return Found(network, config, layout, checkpoint, places, arrays)


def _axis(place: Place) -> int | None:
    """The axis of our parameter along which the rows of the torch tensor lie."""
    axis = place.rule.first_axis()
    return axis if axis is None or place.row is None else axis + 1


def _refuse_twins(found: Sequence[Found]) -> None:
    by_network: dict[str, str] = {}
    for network in found:
        if network.network in by_network:
            raise InputError(
                f"Two checkpoints of {network.network}: {by_network[network.network]} and "
                f"{network.checkpoint.name}; keep one, or give that file as the source."
            )
        by_network[network.network] = network.checkpoint.name


def _open_draft(draft: str, found: Sequence[Found]) -> None:
    """Keep what an earlier run has written from the same files; else start with nothing."""
    files = sorted({path for network in found for path in network.checkpoint.files})
    source = {
        "files": {path: storage.identity(path) for path in files},
        "chunks": [orbax_layout.PIECE, orbax_layout.CHUNK],
    }
    mark = storage.join(draft, _SOURCE)
    encoded = json.dumps(source, indent=2).encode()
    if storage.is_file(mark) and storage.read_bytes(mark) == encoded:
        for name in storage.files(draft):
            if name.rpartition("/")[2].startswith(".") and not name.endswith("/.zarray"):
                storage.remove(storage.join(draft, name))  # what was being written when it ended
        return
    storage.remove(draft)
    storage.write_bytes(mark, encoded)


def _check_room(draft: str, found: Sequence[Found]) -> None:
    needed = sum(network.nbytes for network in found) - sum(storage.files(draft).values())
    free = storage.free_bytes(draft)
    if free is not None and free < needed:
        raise InputError(
            f"The model directory needs {needed / 1e9:.1f} GB more, the disk of {draft} has "
            f"{free / 1e9:.1f} GB free; make room, or write to another disk or to gs://."
        )


def _write(found: Found, draft: str, bar: Any) -> Iterator[dict[str, Any]]:
    """Write one network; yields the provenance of each of its files."""
    folder = storage.join(draft, found.network)
    done = storage.files(folder)
    for array in found.arrays.values():
        storage.write_bytes(storage.join(folder, f"{array.folder}/.zarray"), array.describe())
    digests = {file: Digest(file) for file in found.checkpoint.readers}
    writes: deque[Future[None]] = deque()
    remote = storage.is_remote(draft)
    with ThreadPoolExecutor(_IN_FLIGHT if remote else 2, "write") as pool:
        for name, place in found.places.items():
            tensor = found.checkpoint.tensors[name]
            array = found.arrays[place.path]
            for chunk, part in _chunks(tensor, place, array, done):
                if len(writes) == _IN_FLIGHT:
                    writes.popleft().result()
                path = storage.join(folder, chunk)
                writes.append(pool.submit(storage.write_bytes, path, array.encode(part)))
            bar.update(tensor.nbytes)
        for write in writes:
            write.result()
    ours = directory.initial_params(found.network, found.config, found.arrays)
    for path, value in ours.items():
        array = orbax_layout.chunked(path, value.shape, value.dtype, stacked=False, axis=None)
        storage.write_bytes(storage.join(folder, f"{array.folder}/.zarray"), array.describe())
        for chunk, at in array.files([0] * value.ndim, value.shape):
            storage.write_bytes(storage.join(folder, chunk), array.encode(value[at]))
    orbax_layout.finish(folder, sorted([*found.arrays, *ours]))
    for file, digest in digests.items():
        yield {
            "network": found.network,
            "layout": found.layout,
            "file": file.path,
            "bytes": file.size,
            "sha256": digest.finish(),
        }


def _chunks(
    tensor: Tensor, place: Place, array: StoredArray, done: Mapping[str, int]
) -> Iterator[tuple[str, np.ndarray]]:
    """The chunk files that a tensor becomes, and what is in each; those that are done are left out."""
    lead = [] if place.row is None else [place.row]
    shape = place.rule.shape(tensor.shape)
    axis = place.rule.first_axis() if shape else None
    rows = tensor.shape[0] if axis is not None else 1
    step = array.chunks[len(lead) + axis] if axis is not None else 1
    for first in range(0, rows, max(1, step)):
        last = min(first + step, rows)
        start, stop = [*lead, *[0] * len(shape)], [*[row + 1 for row in lead], *shape]
        if axis is not None:
            start[len(lead) + axis], stop[len(lead) + axis] = first, last
        wanted = [
            (file, part)
            for file, part in array.files(start, stop)
            if done.get(file) != array.chunk_bytes
        ]
        if not wanted:
            continue
        piece = tensor.rows(first, last) if axis is not None else tensor.read()
        _check_finite(tensor, piece)
        ours = place.rule.apply(piece)
        ours = ours if place.row is None else ours[None]
        for file, part in wanted:
            yield file, ours[part]


def _check_finite(tensor: Tensor, piece: np.ndarray) -> None:
    if piece.dtype.kind in "biu":
        return
    # By the bits: a number is finite if its exponent is not all ones; fast for every float type.
    bits = piece.view(f"u{piece.dtype.itemsize}")
    infinity = np.array(np.inf, piece.dtype).view(bits.dtype)
    sign = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    if bits.size and np.max(bits & ~sign) >= infinity:
        raise InputError(
            f"Tensor {tensor.name} in {tensor.file.path} holds NaN or infinity; the file is damaged, "
            "download it again."
        )


def _copy_tokenizer(roots: Sequence[str], draft: str) -> str | None:
    """Copy the tokenizer of UMT5 if the source has it; its kind, or None."""
    for wanted in TOKENIZER_FILES[:2]:
        for root in roots:
            names = storage.files(root)
            for name in names:
                folder, _, base = name.rpartition("/")
                if base != wanted:
                    continue
                for each in TOKENIZER_FILES:
                    inside = f"{folder}/{each}".lstrip("/")
                    if inside in names:
                        data = storage.read_bytes(storage.join(root, inside))
                        storage.write_bytes(storage.join(draft, directory.TOKENIZER, each), data)
                return "umt5"
    return None


class Digest:
    """The sha256 of a file, taken from the ranges that are being read anyway; a gap is read at the end
    of it. Runs beside the reading: hashlib lets other threads work."""

    def __init__(self, file: storage.Reader) -> None:
        self._hash, self._at, self._size = hashlib.sha256(), 0, file.size
        self._own = storage.Reader(file.path)
        self._pool = ThreadPoolExecutor(1, "sha256")
        self._pending: Future[None] | None = None
        file.observer = self._saw

    def finish(self) -> str:
        """The digest of the whole file, in hexadecimal."""
        self._fill(self._size)
        self._pool.shutdown()
        self._own.close()
        return self._hash.hexdigest()

    def _saw(self, offset: int, data: bytes) -> None:
        if offset >= self._at:
            self._fill(offset)
            self._add(data)

    def _fill(self, end: int) -> None:
        while self._at < end:
            self._add(self._own.read(self._at, min(orbax_layout.PIECE, end - self._at)))

    def _add(self, data: bytes) -> None:
        if self._pending is not None:
            self._pending.result()  # no more than one piece waits
        self._pending = self._pool.submit(self._hash.update, data)
        self._at += len(data)
