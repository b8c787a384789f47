"""The only place that reads a built test set: clips with their pictures and sound decoded."""

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from omnihuman_jax.data import raw
from omnihuman_jax.errors import InputError
from omnihuman_jax.media.files import decoding
from omnihuman_jax.testsets import id_list

WANT = "a folder made by `omnihuman testset`"


@dataclass(frozen=True, kw_only=True)
class TestClip:
    """One clip of a test set: what a model is given, and what really happened.

    Attributes:
        reference: the first frame, as in the source.
        sound: 16 kHz, exactly as long as the video; None if the clip is silent.
        pose: keypoints of every frame (skeleton.JOINTS), as fractions of it; None without.
        attributes: what else the collection says.
        mp4: the ground truth, H.264 with its sound.
    """

    __test__ = False  # pytest

    id: str
    reference: UInt8[np.ndarray, "Y X 3"]
    sound: Float32[np.ndarray, "samples"] | None
    pose: Float32[np.ndarray, "F 133 3"] | None
    fps: float
    frames: int
    height: int
    width: int
    identity: str
    text: str
    attributes: Mapping[str, Any]
    mp4: bytes = field(repr=False)

    def video(self) -> UInt8[np.ndarray, "F Y X 3"]:
        """The ground truth, decoded. Raises InputError: not the frames that it should have."""
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            file.write(self.mp4)
            file.flush()
            try:
                facts = raw.probe(file.name)
                frames = list(raw.frames(file.name, facts, self.fps, whole=True))
            except raw.DecodeError as why:
                raise InputError(f"The video of clip {self.id} is damaged: {why}") from why
        if len(frames) != self.frames:
            raise InputError(
                f"The video of clip {self.id} has {len(frames)} of {self.frames} frames."
            )
        return np.stack(frames)


class TestSet:
    """All clips of a built set by number, in the order of its id list.

    Attributes:
        folder: where it is.
        ids: what the set was drawn from and how (id_list.IdList).
    """

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = id_list.read_ids(folder / id_list.FILE)
        with decoding(folder, WANT):
            builder = load_tfds().builder_from_directory(str(folder))
            self._source = builder.as_data_source(split="test")
            found = len(self._source)
        if found != len(self.ids.ids):
            raise InputError(f"{folder} has {found} clips, its {id_list.FILE} {len(self.ids.ids)}.")

    def __len__(self) -> int:
        return len(self.ids.ids)

    def __getitem__(self, number: int) -> TestClip:
        """Raises: IndexError: no such clip; InputError: the clip is damaged."""
        number = range(len(self))[number]
        with decoding(self.folder, WANT):
            example = self._source[number]
            name = example["id"].decode()
            reference = np.array(Image.open(io.BytesIO(example["reference"]), formats=["PNG"]))
        if name != self.ids.ids[number]:
            raise InputError(
                f"{self.folder}: clip {number} is {name}, by {id_list.FILE} {self.ids.ids[number]}."
            )
        pose, sound = example["pose"], example["sound"]
        return TestClip(
            id=name,
            reference=reference,
            sound=sound if len(sound) else None,
            pose=pose if len(pose) else None,
            **{key: example[key] for key in ("fps", "frames", "height", "width")},
            **{key: example[key].decode() for key in ("identity", "text")},
            attributes=json.loads(example["attributes"]),
            mp4=example["video"],
        )


def open_testset(path: str | Path) -> TestSet:
    """The test set at `path`: its own folder, or one that holds no other.

    Raises:
        InputError: none there, several, a damaged one, or one of a newer version.
    """
    folder = Path(path)
    found = sorted(
        file.parent
        for depth in ("", "*/", "*/*/")
        for file in folder.glob(f"{depth}{id_list.FILE}")
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not found:
        raise InputError(f"There is no test set in {path}; give {WANT}.")
    if len(found) > 1:
        names = ", ".join(str(each.relative_to(folder)) for each in found)
        raise InputError(f"There are several test sets in {path}: {names}; name one.")
    return TestSet(found[0])


def load_tfds() -> Any:
    """TensorFlow Datasets, which takes a second. Raises: InputError: it is not installed."""
    try:
        import tensorflow_datasets
    except ImportError as why:
        raise InputError(
            f"Test sets need a package that is not there ({why}); install omnihuman_jax[eval]."
        ) from why
    return tensorflow_datasets
