"""Faces -> who they are: dlib's face recognition ResNet, as face-api published it; and faces put upright.

Vectors of the same person point the same way. This network is small and free, and not the ArcFace with
which papers measure CSIM: its numbers go beside one another, not beside theirs. Between people they are not
near 0 either.
"""

from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64, UInt8

from omnihuman_jax import skeleton
from omnihuman_jax.models import convnets, face_files
from omnihuman_jax.models.convnets import Conv, Weights, convolve, max_pool, mean_pool

SIDE = 150
WIDTH = 128
MEAN = (122.782, 117.001, 104.298)  # red, green, blue
BATCH = 16
SAME_PERSON = (
    0.9  # cosine: above it two faces are taken for one person's; about the distance of 0.6 of dlib
)

# Where the middle of eyes and mouth comes to lie, and how far the mouth is from an eye, in sides of the crop
# (face-api's alignment for this network).
CENTRE = (0.5, 0.43)
EYE_TO_MOUTH = 0.45
EYES = (slice(36, 42), slice(42, 48))  # of iBUG's 68 points
MOUTH = slice(48, 68)

STEM = Conv("conv32_down", (7, 7, 3, 32), 2, "VALID")


def _residual(name: str, inputs: int, width: int, *, down: bool = False) -> tuple[Conv, Conv]:
    first = Conv(
        f"{name}/conv1", (3, 3, inputs, width), 2 if down else 1, "VALID" if down else "SAME"
    )
    return first, Conv(f"{name}/conv2", (3, 3, width, width))


BLOCKS = (
    *(_residual(f"conv32_{i}", 32, 32) for i in (1, 2, 3)),
    _residual("conv64_down", 32, 64, down=True),
    *(_residual(f"conv64_{i}", 64, 64) for i in (1, 2, 3)),
    _residual("conv128_down", 64, 128, down=True),
    *(_residual(f"conv128_{i}", 128, 128) for i in (1, 2)),
    _residual("conv256_down", 128, 256, down=True),
    *(_residual(f"conv256_{i}", 256, 256) for i in (1, 2)),
    _residual("conv256_down_out", 256, 256, down=True),
)


class Faces:
    """The network, with its published weights.

    faces = Faces.load()
    crops, seen = aligned(frames, Landmarker()(frames, fps))
    who = faces(crops)
    """

    def __init__(self, tensors: dict[str, Float32[np.ndarray, "..."]]) -> None:
        """`tensors` by the names of TensorFlow.js, as `face_files.read` gives them."""
        weights = {"fc": tensors["fc"]}
        for layer in (STEM, *(conv for block in BLOCKS for conv in block)):
            gain, shift = (tensors[f"{layer.name}/scale/{part}"] for part in ("weights", "biases"))
            weights[f"{layer.path}/kernel"] = tensors[f"{layer.name}/conv/filters"] * gain
            weights[f"{layer.path}/bias"] = tensors[f"{layer.name}/conv/bias"] * gain + shift
        self._weights = {name: jnp.asarray(value) for name, value in weights.items()}

    @classmethod
    def load(cls, path: str | None = None) -> "Faces":
        """From a folder with face-api's two files; without one they are fetched, once (face_files.folder).

        Raises:
            InputError: they are not there, are not those published, or cannot be fetched.
        """
        if path is not None:
            face_files.check(Path(path))
        return cls(face_files.read(Path(path) if path else face_files.folder()))

    def __call__(self, crops: UInt8[np.ndarray, "F Y X 3"]) -> Float32[np.ndarray, "F 128"]:
        """Unit vectors of square crops in RGB (`aligned` makes them; others are stretched to 150 x 150)."""
        found = self.descriptors(crops)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    def descriptors(self, crops: UInt8[np.ndarray, "F Y X 3"]) -> Float32[np.ndarray, "F 128"]:
        """The vectors as the network gives them; dlib takes a distance below 0.6 for the same person."""
        return convnets.in_batches(lambda some: _descriptors(self._weights, some), crops, BATCH)


@jax.jit
def _descriptors(weights: Weights, crops: UInt8[Array, "F Y X 3"]) -> Float32[Array, "F 128"]:
    x = convnets.resize(crops.astype(jnp.float32), SIDE)
    x = (x - jnp.array(MEAN)[None, None, None]) / 255
    x = max_pool(convolve(x, STEM, weights), 3, 2)
    for first, second in BLOCKS:
        y = convolve(convolve(x, first, weights), second, weights, relu=False)
        if first.stride == 2:
            x = mean_pool(x, 2, 2)
            x = jnp.pad(x, [(0, 0)] * 3 + [(0, y.shape[-1] - x.shape[-1])])
            short = [(0, x.shape[axis] - y.shape[axis]) for axis in (1, 2)]
            y = jnp.pad(y, [(0, 0), *short, (0, 0)])
        x = jax.nn.relu(x + y)
    return jnp.matmul(x.mean(axis=(1, 2)), weights["fc"], precision="highest")


def aligned(
    frames: UInt8[np.ndarray, "F Y X 3"], pose: Float32[np.ndarray, "F J 3"]
) -> tuple[UInt8[np.ndarray, "K 150 150 3"], Bool[np.ndarray, "F"]]:
    """The faces of the frames in which one is seen, upright and of one size; and which frames those are.

    A face is turned, scaled and shifted so that its eyes are level; nothing is stretched. Beyond the frame
    its edge goes on. `pose` are whole-body keypoints, as `landmarks.Landmarker` finds them.
    """
    if pose.shape[1] < skeleton.FACE.stop:
        return np.zeros((0, SIDE, SIDE, 3), np.uint8), np.zeros(len(frames), bool)
    points = pose[:, skeleton.FACE]
    needed = np.r_[EYES[0], EYES[1], MOUTH]
    seen: np.ndarray = np.all(points[:, needed, 2] > 0, axis=1)
    size = (frames.shape[2], frames.shape[1])
    cuts = [
        _cut(frame, of.astype(np.float64) * size)
        for frame, of in zip(frames[seen], points[seen, :, :2], strict=True)
    ]
    return np.stack([np.zeros((SIDE, SIDE, 3), np.uint8), *cuts])[1:], seen


def _cut(
    frame: UInt8[np.ndarray, "Y X 3"], face: Float64[np.ndarray, "68 2"]
) -> UInt8[np.ndarray, "150 150 3"]:
    right, left = (face[eye].mean(axis=0) for eye in EYES)
    mouth = face[MOUTH].mean(axis=0)
    centre = (right + left + mouth) / 3
    reach = float(np.linalg.norm(mouth - right) + np.linalg.norm(mouth - left)) / 2
    scale = max(reach, 1.0) / EYE_TO_MOUTH / SIDE  # pixels of the frame to one of the crop
    if scale > 1:  # smoothed first, or fine hair would flicker
        shrunk = cv2.resize(frame, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        centre = centre * (shrunk.shape[1] / frame.shape[1], shrunk.shape[0] / frame.shape[0])
        frame, scale = np.asarray(shrunk, np.uint8), 1.0
    across = (left - right) / max(float(np.linalg.norm(left - right)), 1e-6)
    turn = scale * np.array([[across[0], -across[1]], [across[1], across[0]]])
    corner = centre - turn @ (
        np.array(CENTRE) * SIDE
    )  # between pixels; cv2 counts from their middles
    matrix = np.concatenate([turn, (corner + turn @ [0.5, 0.5] - 0.5)[:, None]], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(frame, matrix, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)
