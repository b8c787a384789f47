"""The front door of Python: `load` a model, `generate` videos from files, arrays or pictures.

from omnihuman_jax import load

pipe = load("mini")
video = pipe.generate(reference="me.jpg", audio="hello.wav", seed=7)
video.save("hello.mp4")
for frames in pipe.stream(audio="talk.wav"):  # a long one, a piece at a time
    ...
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, UInt8

from omnihuman_jax import mesh as meshes
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference import results
from omnihuman_jax.inference.generator import Generator, Progress, Request
from omnihuman_jax.inference.request import Wish, prepare
from omnihuman_jax.inference.segments import Kept
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.models.building import FLOAT32, PRECISIONS, Precision
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.models.mini import find


@dataclass(frozen=True)
class Video:
    """What was made.

    Attributes:
        sound: what it was driven by, 16 kHz; None without.
        request: all settings that made it; the same request makes it again.
        notes: what to know before looking at it.
    """

    frames: UInt8[np.ndarray, "F Y X 3"]
    fps: float
    sound: Float32[np.ndarray, "samples"] | None
    request: Request
    notes: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .mp4 with its sound. Raises InputError for a name or a place that cannot be written."""
        _, height, width, _ = self.frames.shape
        size = dict(height=height, width=width)
        with VideoWriter(path, **size, fps=self.fps, sound=self.sound) as video:
            video.append(self.frames)


@dataclass(frozen=True)
class Pipeline:
    """A model that makes videos; networks stay loaded from one to the next.

    Attributes:
        mesh: devices that share the work; None for one.
        kept: networks that are loaded; None frees each after its work.
        offload: the transformer's blocks wait in the host's memory, for a device they do not fit.
    """

    model: ModelDirectory
    precision: Precision
    mesh: Mesh | None = None
    kept: dict[str, Any] | None = dataclasses.field(default_factory=dict)
    offload: bool = False

    @property
    def generator(self) -> Generator:
        """What does the work."""
        vae = FLOAT32 if self.precision == FLOAT32 else None
        return Generator(
            self.model, self.precision, vae, kept=self.kept, mesh=self.mesh, offload=self.offload
        )

    @property
    def first(self) -> bool:
        """Whether this process writes: the first of several."""
        return jax.process_index() == 0

    def request(self, **wish: Any) -> Request:
        """The request that these settings come to (`Wish` lists them), every input read and checked.

        Raises:
            InputError: an input or a number that cannot work, or no such setting.
        """
        known = [field.name for field in dataclasses.fields(Wish)]
        if odd := sorted(wish.keys() - set(known)):
            raise InputError(f"No setting {', '.join(odd)}; there are {', '.join(sorted(known))}.")
        for name in ("reference", "audio", "pose"):
            if isinstance(wish.get(name), os.PathLike):
                wish[name] = os.fspath(wish[name])
        return prepare(Wish(**wish), self.model)

    def generate(self, *, progress: Progress | None = None, **wish: Any) -> Video:
        """One video, whole in memory.

        Args:
            progress: called with phase ("encode", "denoise", "decode"), what is done, and of how many.
            wish: the settings of `Wish`: reference, audio, pose, text, seconds, size, steps, seed, …; as in
                `omnihuman generate`. Without any condition, the built-in example.

        Raises:
            InputError: as `request`, or the model has no input for a condition.
        """
        request = self.request(**wish)
        frames = np.concatenate(list(self.generator(request, progress)))
        return self._video(request, frames)

    def generate_all(
        self, wishes: Sequence[Mapping[str, Any]], *, progress: Progress | None = None
    ) -> list[Video]:
        """Several videos, side by side on the data axis of the mesh where they are alike; each is the one
        that it would be alone."""
        requests = [self.request(**wish) for wish in wishes]
        made: dict[int, Video] = {}
        for group in self.groups(requests):
            alike = [requests[i] for i in group]
            frames = np.concatenate(list(self.generator.together(alike, progress)), axis=1)
            for i, own in zip(group, frames, strict=True):
                made[i] = self._video(requests[i], own)
        return [made[i] for i in range(len(requests))]

    def stream(
        self, *, progress: Progress | None = None, **wish: Any
    ) -> Iterator[UInt8[np.ndarray, "F Y X 3"]]:
        """The frames of one video as they are made, a few at a time, in constant memory."""
        return self.generator(self.request(**wish), progress)

    def groups(self, requests: Sequence[Request]) -> list[list[int]]:
        """Numbers of requests that are made together: alike, and as many as the data axis has devices."""
        most = 1 if self.mesh is None else self.mesh.shape["data"]
        alike: dict[Any, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(request.alike, []).append(number)
        return [all_[i : i + most] for all_ in alike.values() for i in range(0, len(all_), most)]

    def write(
        self,
        requests: Sequence[Request],
        paths: Sequence[str],
        progress: Progress | None = None,
        saved: Sequence[Kept] | None = None,
    ) -> int:
        """Make videos that are alike and write them, each with a contact sheet; how many frames.

        Of several processes all work and the first writes.
        """
        generate = lambda: self.generator.together(requests, progress, saved)
        if self.first:
            return results.write_all(generate, requests, paths)
        return sum(pieces.shape[1] for pieces in generate())

    def _video(self, request: Request, frames: np.ndarray) -> Video:
        notes = tuple(results.notes(self.model, request))
        return Video(frames, request.fps, request.audio, request, notes)


def load(
    model: str = "mini",
    *,
    precision: str = "auto",
    mesh: Mapping[str, int] | None = None,
    keep: bool = True,
    offload: bool = False,
) -> Pipeline:
    """A model directory (local or gs://), or a built-in model, ready to make videos.

    Args:
        precision: "float32", "bfloat16", "int8", "float8", or "auto": float32 on a CPU, else bfloat16.
        mesh: how many devices along data, context, tensor, fsdp (mesh.py); None: all share each video.
        keep: whether networks stay loaded from one video to the next; False frees each after its work, for
            devices that cannot hold the transformer and the text encoder at once.
        offload: the transformer's blocks wait in the host's memory: slower, for devices they do not fit.

    Raises:
        InputError: no such model or precision, or a mesh that is not these devices.
    """
    kept: dict[str, Any] | None = {} if keep else None
    devices = meshes.for_videos(1, mesh)
    return Pipeline(find(model), precision_of(precision), devices, kept, offload)


def precision_of(name: str) -> Precision:
    """The precision called `name`; "auto" by the device. Raises InputError for an unknown name."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in PRECISIONS:
        raise InputError(f"No precision {name!r}; there are auto, {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]
