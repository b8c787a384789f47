"""The only place that gets the face network's weights: out of face-api's npm package, once, into a cache.

The files are those of `@vladmandic/face-api` 1.7.15 (MIT licence): dlib's face recognition ResNet (King
2017; its model is in the public domain), with most of its numbers in 8 bits. None of the package's code is
used. `python -m omnihuman_jax.models.face_files` fetches ahead.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from omnihuman_jax.errors import InputError
from omnihuman_jax.landmarks.fetch import cache as landmarks_cache
from omnihuman_jax.landmarks.fetch import locked, sha256_of

PACKAGE = "@vladmandic/face-api@1.7.15"
VARIABLE = "OMNIHUMAN_FACES"
MANIFEST = "face_recognition_model-weights_manifest.json"
NUMBERS = "face_recognition_model.bin"
SHA256: Mapping[str, str] = {
    MANIFEST: "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b",
    NUMBERS: "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589",
}


def folder() -> Path:
    """Where both files are, checked. The first call fetches 13 MB with npm.

    That is `$OMNIHUMAN_FACES` if it is set (nothing is fetched then), else a folder of the user's cache. Safe
    in many processes at once.

    Raises:
        InputError: the files are not there and cannot be fetched, or a file is not the published one.
    """
    if given := os.environ.get(VARIABLE):
        check(Path(given))
        return Path(given)
    place = landmarks_cache().with_name("faces")
    if not _whole(place):
        with locked(place):
            if not _whole(place):  # another process may have fetched them meanwhile
                _fetch(place)
    return place


def check(place: Path) -> None:
    """Raises InputError: the folder has not got both published files."""
    for name, sha256 in SHA256.items():
        if not (place / name).is_file():
            raise InputError(
                f"{place} has no {name}; put the two files of {PACKAGE}, folder model, there."
            )
        if sha256_of(place / name) != sha256:
            raise InputError(f"{place / name} is not the file of {PACKAGE}: its sha256 differs.")


def read(place: Path) -> dict[str, Float32[np.ndarray, "..."]]:
    """The tensors by TensorFlow.js's names: each lies behind the one before, in 8 bits or in float32."""
    (group,) = json.loads((place / MANIFEST).read_text())
    data = (place / NUMBERS).read_bytes()
    tensors, at = {}, 0
    for entry in group["weights"]:
        shape, codes = tuple(entry["shape"]), entry.get("quantization")
        dtype = np.dtype(codes["dtype"]) if codes else np.dtype("<f4")
        count = math.prod(shape)
        value = np.frombuffer(data, dtype, count, at).reshape(shape).astype(np.float32)
        if codes:
            value = value * np.float32(codes["scale"]) + np.float32(codes["min"])
        tensors[entry["name"]] = value
        at += count * dtype.itemsize
    if at != len(data):
        raise InputError(f"{place / NUMBERS} has {len(data)} bytes, its manifest says {at}.")
    return tensors


def _whole(place: Path) -> bool:
    return all(
        (place / name).is_file() and sha256_of(place / name) == sha256
        for name, sha256 in SHA256.items()
    )


def _fetch(place: Path) -> None:
    """Download, check, and move into the cache one whole file after the other."""
    with tempfile.TemporaryDirectory(dir=place, prefix=".fetching-") as name:
        work = Path(name)
        _download(work)
        for packed in work.glob("*.tgz"):
            with tarfile.open(packed) as archive:
                for member in archive.getmembers():
                    content = archive.extractfile(member)
                    if Path(member.name).name in SHA256 and content is not None:
                        (work / Path(member.name).name).write_bytes(content.read())
        check(work)
        for file in SHA256:
            (work / file).replace(place / file)


def _download(work: Path) -> None:
    """The package, packed, into `work`, as the user configured npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"The face network is fetched with npm, and there is none; install npm, or set {VARIABLE} "
            f"to a folder with {' and '.join(SHA256)} of {PACKAGE}."
        )
    command = [
        npm,
        "pack",
        "--silent",
        "--ignore-scripts",
        "--pack-destination",
        str(work),
        PACKAGE,
    ]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise InputError(
            f"The face network could not be fetched ({said.strip()}); let this machine reach a package "
            f"index once, or set {VARIABLE} to a folder with {' and '.join(SHA256)} of {PACKAGE}."
        )


if __name__ == "__main__":
    try:
        print(f"The face network is in {folder()}.")
    except InputError as why:
        sys.exit(f"error: {why}")
