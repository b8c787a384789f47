"""What texts became, kept on disk: a text that was encoded once needs no text encoder again.

An encoder of 11 GB is read, and takes the device's memory, for a text or two; what comes of it has at most
4 MB in bfloat16. A file a text, named by everything that its features depend on, in the user's cache
folder (below XDG_CACHE_HOME, or ~/.cache). The environment variable OMNIHUMAN_CACHE=off keeps none.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float

import omnihuman_jax
from omnihuman_jax import storage
from omnihuman_jax.models.building import Precision
from omnihuman_jax.models.directory import TOKENIZER, ModelDirectory

SWITCH = "OMNIHUMAN_CACHE"
ROOM = 512 * 2**20  # bytes, all files together
FORMAT = 1  # raise it when an encoder begins to make other features of the same weights
DIGEST = hashlib.sha256().digest_size
SAMPLE = 4096  # bytes of every file of the weights that are looked at

Encode = Callable[[str], Float[np.ndarray, "S E"]]


@dataclass(frozen=True)
class Remembered:
    """Features of texts in a folder, of one encoder; any number of processes may use it at once.

    A file is a .npy of the rows up to the last that is not zero (numbers of bfloat16 as their bits, in
    uint16), and its SHA-256 behind it: one that was damaged is as good as none.

    Attributes:
        folder: where; local.
        encoder: tells one encoder from another, see `fingerprint`.
        length: rows of the features.
        room: bytes that all files together may have; those unused for longest go.
    """

    folder: str
    encoder: str
    length: int
    room: int = ROOM

    def __call__(self, text: str, encode: Encode) -> Float[np.ndarray, "S E"]:
        """Features of a text, from the disk or else of `encode`, the same to the last bit."""
        known = self._read(self._path(text))
        if known is None:
            features = encode(text)
            # A disk that is full, or not ours, costs time the next time and nothing now.
            with contextlib.suppress(OSError):
                self._write(self._path(text), features)
            return features
        return np.pad(known, ((0, self.length - len(known)), (0, 0)))

    def _path(self, text: str) -> Path:
        said = hashlib.sha256(f"{self.encoder} {self.length} {text}".encode(errors="surrogatepass"))
        return Path(self.folder) / f"{said.hexdigest()[:40]}.npy"

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            found = path.read_bytes()
            content, digest = found[:-DIGEST], found[-DIGEST:]
            if hashlib.sha256(content).digest() != digest:
                return None
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # in use
        return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array

    def _write(self, path: Path, features: np.ndarray) -> None:
        bits = features.view(np.uint16) if features.dtype == ml_dtypes.bfloat16 else features
        # By the bits: a row of negative zeros is not one of zeros.
        given = np.flatnonzero(bits.view(f"u{bits.itemsize}").any(axis=1))
        content = io.BytesIO()
        np.save(content, bits[: given[-1] + 1 if len(given) else 0], allow_pickle=False)
        data = content.getvalue()
        storage.write_bytes(str(path), data + hashlib.sha256(data).digest())
        self._tidy()

    def _tidy(self) -> None:
        """Remove the files unused for longest until the others have room."""
        found = []
        for path in Path(self.folder).glob("*.npy"):
            with contextlib.suppress(FileNotFoundError):  # another process tidies too
                said = path.stat()
                found.append((said.st_mtime_ns, said.st_size, path))
        taken = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if taken <= self.room:
                return
            path.unlink(missing_ok=True)
            taken -= size


def remembered(model: ModelDirectory, precision: Precision, length: int) -> Remembered | None:
    """Where features of texts of this model are kept.

    None where they are not: it is turned off, the model is not on disk, or several processes work
    together, which have to do the same and have not the same disk.
    """
    if os.environ.get(SWITCH, "").lower() == "off" or jax.process_count() > 1:
        return None
    encoder = fingerprint(model, precision)
    if encoder is None:
        return None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Remembered(str(Path(base) / "omnihuman_jax/texts"), encoder, length)


def fingerprint(model: ModelDirectory, precision: Precision) -> str | None:
    """A number that is another one for another text encoder; None for one that is not on disk.

    It depends on what `model.json` says of the encoder; name, size, date and first bytes of every file of
    its weights and tokenizer; the precision; the device and the versions that compute. Not on the model's
    path, nor on its other networks.
    """
    manifest, name = model.manifest, "text_encoder"
    made_of = [f for f in manifest.provenance.get("files", ()) if f.get("network") == name]
    digest = hashlib.sha256()
    device = jax.local_devices()[0]
    for fact in (
        FORMAT, omnihuman_jax.__version__, jax.__version__, device.platform, device.device_kind,
        model.config(name), manifest.tokenizer, manifest.provenance.get(name), made_of,
        jnp.dtype(precision.params), jnp.dtype(precision.compute),
        jax.config.jax_default_matmul_precision,
    ):  # fmt: skip
        digest.update(repr(fact).encode() + b"\n")
    weights = False
    for part in (name, TOKENIZER):
        folder = model.folder(part)
        for file, identity in storage.identities(folder).items():
            weights |= part == name
            digest.update(repr((part, file, identity)).encode())
            if not storage.is_remote(folder):  # there the generation tells
                with open(storage.join(folder, file), "rb") as opened:
                    digest.update(opened.read(SAMPLE))
    return digest.hexdigest() if weights else None
