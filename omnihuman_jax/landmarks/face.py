"""The only place that knows mediapipe's face mesh: 468 points, and which of them are iBUG's 68."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from omnihuman_jax.landmarks.detect import Found
from omnihuman_jax.landmarks.pictures import Picture, Region
from omnihuman_jax.landmarks.tflite import Forward

SIZE = 192
MARGIN = 1.5  # side of the region over that of the face (mediapipe's graphs)
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners, in the mesh; points 0 and 1 of a detection
NOSE = 4  # its tip
MESH = 468

# The mesh has one numbering for all faces (canonical_face_model of mediapipe). iBUG's points lie on its
# contours: oval, brows, midline, eyes, lips; the outline is the mesh's, at the edge of what is seen.
IBUG = (
    *(127, 234, 93, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 323, 454, 356),  # jaw
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
    *(168, 197, 5, 4, 98, 97, 2, 326, 327),  # nose: bridge down to the tip, then its base
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),  # outer lips
    *(78, 81, 13, 311, 308, 402, 14, 178),  # inner lips
)


@dataclass(frozen=True)
class Face:
    """The mesh in pixels of the frame, and how sure the model is that there is a face."""

    mesh: Float64[np.ndarray, "468 2"]
    presence: float

    @property
    def region(self) -> Region:
        """Where to look in the next frame."""
        return _region(self.mesh, self.mesh[RIGHT_EYE], self.mesh[LEFT_EYE])

    @property
    def centre(self) -> Float64[np.ndarray, "2"]:
        return (self.mesh.min(axis=0) + self.mesh.max(axis=0)) / 2

    @property
    def side(self) -> float:
        return float(np.ptp(self.mesh, axis=0).max())

    @property
    def ibug(self) -> Float64[np.ndarray, "68 2"]:
        return self.mesh[list(IBUG)]


def look(network: Forward, picture: Picture, region: Region) -> Face:
    """The mesh of the face in the region (face_landmark.tflite)."""
    points, logit = network(picture.crop(region, SIZE, 0.0, "edge"))
    mesh = points.reshape(MESH, 3)[:, :2].astype(np.float64) / SIZE
    return Face(region.to_frame(mesh), 1 / (1 + math.exp(-float(logit.reshape(())))))


def detected(found: Found) -> Region:
    """Where the mesh is to be looked for, from a detection."""
    return _region(found.box.reshape(2, 2), found.points[0], found.points[1])


def _region(
    points: Float[np.ndarray, "N 2"], right: Float[np.ndarray, "2"], left: Float[np.ndarray, "2"]
) -> Region:
    angle = math.atan2(left[1] - right[1], left[0] - right[0])
    if len(points) == 2:  # the corners of an upright box, which turning would not keep
        (x, y), side = points.mean(axis=0), np.ptp(points, axis=0).max()
        return Region(float(x), float(y), float(side) * MARGIN, angle)
    return Region.around(points, angle, MARGIN)
