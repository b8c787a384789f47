"""The only place that loads what metrics look through, and says what is needed where it is not there."""

import functools
import hashlib
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
        weights: whether somebody has to bring it; if not, it comes inside a package, and a folder of
            --weights is taken if it is there.
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

    return SyncNetScorer(SyncNet.load(path), _landmarks(""))


def _faces(path: str) -> Any:
    from omnihuman_jax.evaluation.of_people import Identities
    from omnihuman_jax.models.faces import Faces

    def load() -> Any:
        if path:
            return Faces.load(path)
        try:
            return Faces.load()
        except InputError as why:  # they come inside a package, which has to be reached once
            raise NotComputedError(f"needs face-api's weights: {why}") from why

    return Identities(_landmarks(""), load)


def _wholebody(path: str) -> Any:
    from omnihuman_jax.evaluation.of_people import WholeBody

    for part in ("det.onnx", "pose.onnx"):
        if not Path(path, part).is_file():
            raise InputError(f"There is no {part} in {path}; a whole-body detector has both.")
    return WholeBody(path)


def _inception(path: str) -> Any:
    from omnihuman_jax.models.inception import Inception

    return Inception.load(path)


def _i3d(path: str) -> Any:
    from omnihuman_jax.models.i3d import I3D

    return I3D.load(path)


def _resnet3d(path: str) -> Any:
    from omnihuman_jax.models.resnet3d import ResNet3D

    return ResNet3D.load(path)


def _lpips(path: str) -> Any:
    from omnihuman_jax.models.lpips import Lpips

    return Lpips.load(path)


KINDS: dict[str, Kind] = {
    "landmarks": Kind(
        _landmarks, "mediapipe's models (Apache-2.0)", ("ai_edge_litert",), weights=False
    ),
    "syncnet": Kind(
        _syncnet,
        "syncnet_v2.model of joonson/syncnet_python, for research",
        ("ai_edge_litert", "cv2"),
    ),
    "inception": Kind(_inception, "the 2015 Inception of pytorch-fid, by `omnihuman convert`"),
    "i3d": Kind(_i3d, "I3D for Kinetics-400, by `omnihuman convert`"),
    "resnet3d": Kind(_resnet3d, "the 3D-ResNet-50 of DisCo's FVD, by `omnihuman convert`"),
    "lpips": Kind(_lpips, "LPIPS v0.1 with AlexNet, by `omnihuman convert`"),
    "faces": Kind(
        _faces, "face-api's weights (MIT; dlib's network)", ("ai_edge_litert", "cv2"), weights=False
    ),
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
        found = [] if self.folder is None else sorted(Path(self.folder).glob(f"{name}*"))
        found = [each for each in found if name in (each.stem, each.name)]
        if kind.weights and not found:
            where = "--weights with it" if self.folder is None else f"it in {self.folder}"
            raise NotComputedError(f"needs {kind.hint}: give {where}, as {name}")
        if absent := [p for p in kind.packages if importlib.util.find_spec(p) is None]:
            raise NotComputedError(
                f"needs the package {absent[0].replace('_', '-')} for {kind.hint}"
            )
        return str(found[0]) if found else ""

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
