"""The only place that loads what metrics look through, and says what is needed where it is not there."""

import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation.metric import NotComputedError

WHOLE = 64 * 2**20  # bytes: of longer files only both ends go into the fingerprint
END = 2**20


@dataclass(frozen=True)
class Kind:
    """A network that metrics look through.

    Attributes:
        load: its folder or file (a local path; "" for those without) -> the network.
        hint: what it is, where somebody has to bring it.
        packages: that must be installed.
        weights: whether it needs a folder of --weights.
    """

    load: Callable[[str], Any]
    hint: str
    packages: tuple[str, ...] = ()
    weights: bool = True


def _landmarks(_: str) -> Any:
    from omnihuman_jax.landmarks import Landmarker

    try:
        return Landmarker()
    except InputError as why:  # they come inside a package, which has to be reached once
        raise NotComputedError(f"needs mediapipe's models: {why}") from why


def _qalign(path: str) -> Any:
    from omnihuman_jax.data.scorers import QAlign

    return QAlign(path)


def _syncnet(path: str) -> Any:
    from omnihuman_jax.models.syncnet import SyncNet, SyncNetScorer

    return SyncNetScorer(SyncNet.load(_file(path)), _landmarks(""))


def _wholebody(path: str) -> Any:
    from omnihuman_jax.evaluation.of_people import WholeBody

    for part in ("det.onnx", "pose.onnx"):
        if not Path(path, part).is_file():
            raise InputError(f"There is no {part} in {path}; a whole-body detector has both.")
    return WholeBody(path)


def _of(module: str, name: str) -> Callable[[str], Any]:
    """What loads a network of models/."""

    def load(path: str) -> Any:
        return getattr(importlib.import_module(f"omnihuman_jax.models.{module}"), name).load(path)

    return load


def _file(path: str) -> str:
    """A folder's only file, or the file itself."""
    if not Path(path).is_dir():
        return path
    found = [each for each in sorted(Path(path).iterdir()) if each.is_file()]
    if len(found) != 1:
        raise InputError(f"{path} has {len(found)} files, and needs the one of the network.")
    return str(found[0])


KINDS: dict[str, Kind] = {
    "landmarks": Kind(
        _landmarks, "mediapipe's models (Apache-2.0)", ("ai_edge_litert",), weights=False
    ),
    "syncnet": Kind(
        _syncnet,
        "syncnet_v2.model of joonson/syncnet_python, for research",
        ("ai_edge_litert", "cv2"),
    ),
    "inception": Kind(
        _of("inception", "Inception"), "the 2015 Inception of pytorch-fid, by `omnihuman convert`"
    ),
    "i3d": Kind(_of("i3d", "I3D"), "I3D for Kinetics-400, by `omnihuman convert`"),
    "resnet3d": Kind(
        _of("resnet3d", "ResNet3D"), "the 3D-ResNet-50 of DisCo's FVD, by `omnihuman convert`"
    ),
    "lpips": Kind(_of("lpips", "Lpips"), "LPIPS v0.1 with AlexNet, by `omnihuman convert`"),
    "wholebody": Kind(
        _wholebody, "det.onnx and pose.onnx for rtmlib (Apache-2.0)", ("rtmlib", "onnxruntime")
    ),
    "qalign": Kind(
        _qalign, "q-future/one-align (S-Lab licence, non-commercial)", ("torch", "transformers")
    ),
}


@dataclass
class Networks:
    """The networks in the folder that a user gave, each loaded when it is first needed."""

    folder: str | None = None
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, name: str | None) -> Any:
        """The network; None for None.

        Raises:
            NotComputedError: it is not there, or a package is missing; says what it needs.
            InputError: it is there and damaged.
        """
        if name is None:
            return None
        if name not in self._loaded:
            path = self.path(name)
            self._loaded[name] = KINDS[name].load(path)
        return self._loaded[name]

    def path(self, name: str) -> str:
        """Where its weights are; "" for those without. Raises: NotComputedError: nowhere."""
        kind = KINDS[name]
        path = ""
        if kind.weights:
            if self.folder is None:
                raise NotComputedError(f"needs --weights with {name}: {kind.hint}")
            found = sorted(
                p for p in Path(self.folder).glob(f"{name}*") if p.stem == name or p.name == name
            )
            if not found:
                raise NotComputedError(f"needs {name} in {self.folder}: {kind.hint}")
            path = str(found[0])
        if absent := [p for p in kind.packages if importlib.util.find_spec(p) is None]:
            raise NotComputedError(
                f"needs the package {absent[0].replace('_', '-')} for {kind.hint}"
            )
        return path

    def fingerprint(self, name: str | None) -> str:
        """Changes when the weights do; "" for nothing. Raises: NotComputedError: as `path`."""
        if name is None or not (path := self.path(name)):
            return name or ""
        return _digest(path)


@functools.cache
def _digest(path: str) -> str:
    """Of all files: their names, sizes and content; of long ones both ends."""
    root = Path(path)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    sums = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        sums.update(f"{file.relative_to(root)} {size}".encode())
        with file.open("rb") as data:
            if size <= WHOLE:
                sums.update(data.read())
            else:
                sums.update(data.read(END))
                data.seek(-END, 2)
                sums.update(data.read())
    return sums.hexdigest()[:16]


def known() -> Mapping[str, Kind]:
    """All kinds by name."""
    return KINDS
