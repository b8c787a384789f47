"""The only place that makes one person's 133 keypoints out of what the models see, frame after frame."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int, Int32, UInt8

from omnihuman_jax import skeleton
from omnihuman_jax.errors import InputError
from omnihuman_jax.landmarks import body as bodies
from omnihuman_jax.landmarks import face as faces
from omnihuman_jax.landmarks import hands
from omnihuman_jax.landmarks.body import Body
from omnihuman_jax.landmarks.detect import Detector, Found
from omnihuman_jax.landmarks.face import Face
from omnihuman_jax.landmarks.hands import Hand
from omnihuman_jax.landmarks.pictures import Picture, Region
from omnihuman_jax.landmarks.tflite import Network

THERE = 0.5  # least presence of a face, body or hand (mediapipe's default)
WRIST_SEEN = 0.1  # of a wrist, for a hand to be looked for in every frame (mediapipe's gate)
A_SECOND = 5  # how often all faces are counted, and what is followed is compared with them
_EYES = {1: range(42, 48), 2: range(36, 42)}  # COCO's left and right eye: iBUG points around it


class Watched(NamedTuple):
    """What a clip shows: the keypoints of its main person, and how many faces there are."""

    pose: Float32[np.ndarray, "F 133 3"]
    faces: Int32[np.ndarray, "F"]


@dataclass(frozen=True)
class _Person:
    """One frame's view of the main person; None is not there."""

    face: Face | None = None
    body: Body | None = None
    hands: tuple[Hand | None, Hand | None] = (None, None)


class Landmarker:
    """Keypoints of the main person (the largest face) of a clip, in COCO-WholeBody's order.

        pose = Landmarker()(frames, fps=25)

    Detectors find face and body in a frame; after that each is looked for where it was in the frame
    before, until it is lost. Nothing is remembered between calls. Safe in threads, can be pickled.
    About 20 ms a frame on one core, with both hands 30.

    Confidence is that of the models: for face and hands the presence of the whole, the same for all
    their points; for the body visibility times presence of each point. It is 0 for what is not found
    or outside the frame, and for the small toes, which the models do not have. Nose and eyes of the
    body are those of the face where that is seen.
    """

    def __init__(self, *, stride: int = 1, threads: int = 1) -> None:
        """With `stride` k every k-th frame (and the last) is looked at, those between interpolated.

        Raises:
            InputError: stride or threads below 1; the models cannot be had (fetch.models).
        """
        if stride < 1 or threads < 1:
            raise InputError(f"stride and threads are at least 1, got {stride} and {threads}.")
        self.stride, self.threads = stride, threads
        # Imported here, or `python -m omnihuman_jax.landmarks.fetch` would find itself imported.
        from omnihuman_jax.landmarks.fetch import models

        files = models()

        def network(name: str, *outputs: int) -> Network:
            return Network(files[f"{name}.tflite"], outputs, threads)

        self._near = Detector(
            network=network("face_detection_short_range", 0, 1),
            size=128,
            grids=((16, 2), (8, 6)),
            least=0.5,
        )
        self._far = Detector(
            network=network("face_detection_full_range_sparse", 0, 1),
            size=192,
            grids=((48, 1),),
            least=0.6,
        )
        self._bodies = Detector(
            network=network("pose_detection", 0, 1),
            size=224,
            grids=((28, 2), (14, 2), (7, 6)),
            least=0.5,
        )
        self._face = network("face_landmark", 0, 1)
        self._body = network("pose_landmark_full", 0, 1, 3)
        self._recrop = network("hand_recrop", 0)
        self._hand = network("hand_landmark_full", 0, 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return _landmarker, (self.stride, self.threads)

    def __call__(
        self, frames: UInt8[np.ndarray, "F Y X 3"], fps: float
    ) -> Float32[np.ndarray, "F 133 3"]:
        """Keypoints (x, y in [0, 1] of the frame from the top left, confidence).

        Raises:
            InputError: the frame rate is not above 0.
        """
        return self.watch(frames, fps).pose

    def watch(self, frames: UInt8[np.ndarray, "F Y X 3"], fps: float) -> Watched:
        """The same, with the number of faces in each frame (counted five times a second)."""
        if not fps > 0:
            raise InputError(f"A frame rate is above 0, got {fps}.")
        if not len(frames):
            return Watched(np.zeros((0, skeleton.JOINTS, 3), np.float32), np.zeros(0, np.int32))
        looked = np.union1d(np.arange(0, len(frames), self.stride), len(frames) - 1)
        every = max(1, round(fps / A_SECOND / self.stride))
        pose = np.zeros((len(looked), skeleton.JOINTS, 3), np.float32)
        counts = np.zeros(len(looked), np.int32)
        person, count = _Person(), 0
        for row, number in enumerate(looked):
            picture = Picture(frames[number])
            person, count = self._look(picture, person, count, again=row % every == 0)
            pose[row], counts[row] = _keypoints(person, picture), count
        everywhere = np.arange(len(frames))
        nearest = np.searchsorted((looked[1:] + looked[:-1]) / 2, everywhere)
        return Watched(_between(pose, looked, everywhere), counts[nearest])

    def count_people(self, frames: UInt8[np.ndarray, "F Y X 3"]) -> Int32[np.ndarray, "F"]:
        """The faces in each frame; 4 ms a frame."""
        return np.array([len(self._found_faces(Picture(each))) for each in frames], np.int32)

    def _found_faces(self, picture: Picture) -> list[Found]:
        """All faces of the frame: one detector sees the large ones better, the other the small ones."""
        found = self._near(picture)
        return found + [each for each in self._far(picture) if not any(map(each.covers, found))]

    def _look(
        self, picture: Picture, before: _Person, count: int, *, again: bool
    ) -> tuple[_Person, int]:
        """The person in this frame, and how many faces there are in it."""
        body = self._followed_body(picture, before.body)
        face = self._followed_face(picture, before.face)
        if again or face is None:
            found = self._found_faces(picture)
            if not found and body is not None and body.seen[bodies.NOSE] >= THERE:
                found = self._near(picture, _head(body))
            count = len(found)
            if face is None or _is_elsewhere(face, found):
                face = self._new_face(picture, found, body)
        if body is None or (again and not _belongs(body, face)):
            body = self._new_body(picture, face)
        pair = [self._some_hand(picture, before.hands[k], body, k, again=again) for k in (0, 1)]
        return _Person(face, body, _one_each(pair[0], pair[1], body)), count

    def _followed_face(self, picture: Picture, before: Face | None) -> Face | None:
        return None if before is None else self._seen_face(picture, before.region)

    def _seen_face(self, picture: Picture, region: Region) -> Face | None:
        face = faces.look(self._face, picture, region)
        return face if face.presence >= THERE and _is_inside(picture, face.centre) else None

    def _new_face(self, picture: Picture, found: list[Found], body: Body | None) -> Face | None:
        """The face on the body that is followed, else the largest."""
        if body is not None and body.seen[bodies.NOSE] >= THERE:
            found = [each for each in found if _is_near(body, each.centre, each.side)] or found
        for each in sorted(found, key=lambda one: -one.side):
            if (face := self._seen_face(picture, faces.detected(each))) is not None:
                return face
        return None

    def _followed_body(self, picture: Picture, before: Body | None) -> Body | None:
        return None if before is None else self._seen_body(picture, before.region)

    def _seen_body(self, picture: Picture, region: Region) -> Body | None:
        body = bodies.look(self._body, picture, region)
        return body if body.presence >= THERE else None

    def _new_body(self, picture: Picture, face: Face | None) -> Body | None:
        """The body that has the face; without a face, the surest."""
        found = self._bodies(picture)
        if face is not None:
            centre = face.centre
            found.sort(key=lambda each: float(np.linalg.norm(each.centre - centre)))
        for each in found[:2]:
            body = self._seen_body(picture, bodies.detected(each))
            if body is not None and _belongs(body, face):
                return body
        return None

    def _some_hand(
        self,
        picture: Picture,
        before: Hand | None,
        body: Body | None,
        side: int,
        *,
        again: bool,
    ) -> Hand | None:
        """The left (0) or right (1) hand: where it was, else where the body has its wrist."""
        if before is not None:
            hand = hands.look(self._hand, picture, before.region)
            if hand.presence >= THERE and _is_inside(picture, hand.points[hands.MIDDLE]):
                return hand
        if body is None:
            return None
        wrist, little, index = (body.points[k] for k in bodies.HANDS[side])
        seen = body.seen[bodies.HANDS[side][0]]
        reach = 2 * float(np.linalg.norm((index + little) / 2 - wrist))
        if not _is_inside(picture, wrist, reach) or not (again or seen >= WRIST_SEEN):
            return None
        region = hands.find(self._recrop, picture, wrist, little, index)
        hand = hands.look(self._hand, picture, region)
        return hand if hand.presence >= THERE else None


def _landmarker(stride: int, threads: int) -> Landmarker:
    return Landmarker(stride=stride, threads=threads)


def _is_inside(picture: Picture, point: Float64[np.ndarray, "2"], beyond: float = 0.0) -> bool:
    beside = np.maximum(-point, point - (picture.width, picture.height))
    return bool((beside <= beyond).all())


def _head(body: Body) -> Region:
    """A square around the head, for a face too small to be found in the whole frame."""
    points = body.points[: bodies.COCO[5]]  # nose to mouth and ears
    x, y = (points.min(axis=0) + points.max(axis=0)) / 2
    return Region(float(x), float(y), max(4 * float(np.ptp(points, axis=0).max()), 1.0))


def _is_near(body: Body, centre: Float64[np.ndarray, "2"], side: float) -> bool:
    return bool(np.linalg.norm(body.points[bodies.NOSE] - centre) < side)


def _belongs(body: Body, face: Face | None) -> bool:
    """Whether body and face are of one person; what hides its nose may be."""
    if face is None or body.seen[bodies.NOSE] < THERE:
        return True
    return _is_near(body, face.centre, face.side)


def _is_elsewhere(face: Face, found: list[Found]) -> bool:
    """Whether a larger face was found, and none where the followed one is."""
    if any(np.linalg.norm(each.centre - face.centre) < face.side for each in found):
        return False
    return any(each.side > face.side for each in found)


def _one_each(
    left: Hand | None, right: Hand | None, body: Body | None
) -> tuple[Hand | None, Hand | None]:
    """One hand seen as both is the one whose wrist the body has nearer."""
    if left is None or right is None:
        return left, right
    apart = float(np.linalg.norm(left.points - right.points, axis=1).mean())
    if apart > 0.3 * max(left.side, right.side):
        return left, right
    if body is None:
        keep_left = left.presence >= right.presence
    else:
        wrists = [body.points[k[0]] for k in bodies.HANDS]
        misses = [
            np.linalg.norm(hand.points[hands.WRIST] - wrist)
            for hand, wrist in zip((left, right), wrists, strict=True)
        ]
        keep_left = bool(misses[0] <= misses[1])
    return (left, None) if keep_left else (None, right)


def _keypoints(person: _Person, picture: Picture) -> Float32[np.ndarray, "133 3"]:
    pose = np.zeros((skeleton.JOINTS, 3))
    if (body := person.body) is not None:
        for row, point in enumerate((*bodies.COCO, *bodies.FEET)):
            if point is not None:
                pose[row] = *body.points[point], body.seen[point] * body.presence
    if (face := person.face) is not None:
        ibug = face.ibug
        pose[skeleton.FACE, :2] = ibug
        pose[skeleton.FACE, 2] = face.presence
        pose[0] = *face.mesh[faces.NOSE], face.presence
        for row, around in _EYES.items():
            pose[row] = *ibug[around].mean(axis=0), face.presence
    for part, hand in zip((skeleton.LEFT_HAND, skeleton.RIGHT_HAND), person.hands, strict=True):
        if hand is not None:
            pose[part, :2] = hand.points
            pose[part, 2] = hand.presence
    pose[:, :2] /= (picture.width, picture.height)
    outside = ((pose[:, :2] < 0) | (pose[:, :2] > 1)).any(axis=1)
    pose[outside, 2] = 0
    pose[:, :2] = np.where(pose[:, 2:] > 0, pose[:, :2], 0)
    return pose.astype(np.float32)


def _between(
    pose: Float32[np.ndarray, "N J 3"],
    looked: Int[np.ndarray, "N"],
    frames: Int[np.ndarray, "F"],
) -> Float32[np.ndarray, "F J 3"]:
    """Linear between two frames in which a point is seen; else what the nearer of the two says."""
    if len(looked) == len(frames):
        return pose
    after = np.searchsorted(looked, frames).clip(1)
    before = after - 1
    share = ((frames - looked[before]) / (looked[after] - looked[before]))[:, None, None]
    share = share.astype(np.float32)
    both = (pose[before, :, 2:] > 0) & (pose[after, :, 2:] > 0)
    nearer = np.where(share < 0.5, pose[before], pose[after])
    return np.where(both, (1 - share) * pose[before] + share * pose[after], nearer)
