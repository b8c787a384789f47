"""The only file that knows local paths from gs://: list, read a range, write whole or not at all."""

import contextlib
import functools
import io
import os
import random
import shutil
import time
import uuid
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

import numpy as np
from jaxtyping import UInt8

from omnihuman_jax.errors import InputError

GCS = "gs://"
CONNECTIONS = 64  # kept open
TRIES = 8  # of a ranged read, about half a minute in all
FIRST_WAIT, LONGEST_WAIT = 0.25, 16  # seconds between them, doubling
TIMEOUT = (20, 60)  # seconds: to connect, and between two packets
CHUNK = 1 << 18  # bytes that one step of a download copies: they stay in the processor's cache
REUSED, IDLE = (
    1 << 18,
    1 << 26,
)  # bytes: pieces of memory from this size are reused; kept of each size


def is_remote(path: str) -> bool:
    """Whether `path` is on Google Cloud Storage."""
    return path.startswith(GCS)


def join(folder: str, *names: str) -> str:
    """`folder/name/…`, for local paths and gs:// alike."""
    return "/".join([folder.rstrip("/") or "/", *names])


def is_file(path: str) -> bool:
    """Whether a file (not a folder) is there."""
    if not is_remote(path):
        return Path(path).is_file()
    with _explained(path):
        return bool(_blob(path).exists())


def files(folder: str, *, deep: bool = True) -> dict[str, int]:
    """The files in `folder`, and in its sub-folders if `deep`: path relative to it -> bytes, sorted."""
    return {name: found[0] for name, found in identities(folder, deep=deep).items()}


def identities(folder: str, *, deep: bool = True) -> dict[str, list[int]]:
    """As `files`, with every file's `identity`."""
    if not is_remote(folder):
        root = Path(folder)
        found = (
            (p.relative_to(root).as_posix(), p)
            for p in root.glob("**/*" if deep else "*")
            if p.is_file()
        )
        return {name: _identity(p.stat()) for name, p in sorted(found)}
    bucket, prefix = _split(folder.rstrip("/") + "/")
    with _explained(folder):
        blobs = list(_client().list_blobs(bucket, prefix=prefix, delimiter=None if deep else "/"))
    return {
        b.name[len(prefix) :]: [b.size, b.generation] for b in blobs if not b.name.endswith("/")
    }


def identity(path: str) -> list[int]:
    """Numbers that change when the file does: bytes and time of change (or object generation).

    Raises:
        InputError: there is no such file.
    """
    if not is_remote(path):
        try:
            return _identity(os.stat(path))
        except FileNotFoundError as why:
            raise InputError(f"There is no file {path}.") from why
    with _explained(path):
        blob = _blob(path)
        blob.reload()
    return [blob.size, blob.generation]


def _identity(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns]


def read_bytes(path: str) -> bytes:
    """The whole of a small file.

    Raises:
        InputError: it is not there, or may not be read.
    """
    if not is_remote(path):
        try:
            return Path(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, PermissionError) as why:
            raise InputError(f"Cannot read {path}: {why.strerror}.") from why
    with _explained(path):
        return cast(bytes, _blob(path).download_as_bytes())


def write_bytes(path: str, data: Any) -> None:
    """Write a file (any bytes-like `data`): it appears whole, or not at all. Folders are made."""
    if is_remote(path):
        with _explained(path):
            _blob(path).upload_from_file(io.BytesIO(data), size=len(data))
        return
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A file to write from start to end; it takes its name when the block ends without an error."""
    if is_remote(path):
        with _explained(path), _blob(path).open("wb", ignore_flush=True) as file:
            yield file
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(unfinished, "wb") as file:
            yield file
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def copy(source: str, destination: str) -> None:
    """A file under another name. It takes no more room on one local disk, and no way through this machine
    within gs://; files are only ever replaced whole, so neither of the two changes with the other.

    Raises:
        InputError: it is not there, or may not be read.
    """
    if is_remote(source) and is_remote(destination):
        with _explained(source):
            blob, copied, token = _blob(source), _blob(destination), None
            while token := copied.rewrite(blob, token=token)[0]:
                pass
    elif is_remote(source) or is_remote(destination) or not is_file(source):
        write_bytes(destination, read_bytes(source))
    else:
        target = Path(destination)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            try:
                os.link(source, unfinished)
            except OSError:  # another disk, or one without such links
                shutil.copyfile(source, unfinished)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def remove(path: str) -> None:
    """Remove a file or a whole folder; nothing if it is not there."""
    if is_remote(path):
        with _explained(path):
            bucket, name = _split(path)
            for blob in list(_client().list_blobs(bucket, prefix=name)):
                if blob.name == name or blob.name.startswith(name.rstrip("/") + "/"):
                    blob.delete()
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def replace_folder(source: str, destination: str) -> None:
    """Give a local folder the name of another, which goes; at no time is half a folder there."""
    old = Path(f"{destination.rstrip('/')}.old")
    if os.path.lexists(destination):
        remove(str(old))
        os.rename(destination, old)
    os.rename(source, destination)
    remove(str(old))


def free_bytes(folder: str) -> int | None:
    """Room on the disk where `folder` is or will be; None where it has no end (gs://)."""
    if is_remote(folder):
        return None
    path = Path(folder).absolute()
    return shutil.disk_usage(next(p for p in [path, *path.parents] if p.exists())).free


class Reader:
    """One version of a file, open for reading ranges from any thread.

    If the file is replaced, reads go on in the old version (disk) or fail (gs://); they never mix. On
    gs://, what the network or the service interrupts is tried again, from where it broke off.
    `observer`, if set, is shown every range that `read` reads.
    """

    def __init__(self, path: str, pinned: Sequence[int] | None = None) -> None:
        """Open a file; if `pinned` is given, only in the version that has this `identity`.

        Raises:
            InputError: it is not there, may not be read, or is not in that version any more.
        """
        self.path = path
        self.observer: Any = None
        self._fd: int | None = None
        if is_remote(path):
            self.size, self._generation = pinned or identity(path)
            return
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError as why:
            raise InputError(f"There is no file {path}.") from why
        except (IsADirectoryError, PermissionError) as why:
            raise InputError(f"Cannot read {path}: {why.strerror}.") from why
        self._close = weakref.finalize(self, os.close, self._fd)
        found = _identity(os.fstat(self._fd))
        if pinned is not None and list(pinned) != found:
            raise _replaced(path)
        self.size = found[0]

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`.

        Raises:
            InputError: the file ends before that, or was replaced.
            ConnectionError: gs:// did not answer, however often it was asked.
        """
        self._check(offset, length)
        if self._fd is None:
            data = self._filled(offset, length)
        else:
            data = os.pread(self._fd, length, offset)
            if len(data) < length:  # Linux reads 2 GB at a time
                data += self._filled(offset + len(data), length - len(data))
        if self.observer is not None:
            self.observer(offset, data)
        return data

    def view(self, offset: int, length: int) -> UInt8[np.ndarray, "length"]:
        """As `read`, as a read-only array, in memory that is used again when nothing refers to it."""
        self._check(offset, length)
        array = _buffer(length)
        self._fill(offset, memoryview(array))
        array.flags.writeable = False
        return array

    def close(self) -> None:
        """No more is read. Without it, the file is closed when the last reference goes."""
        if self._fd is not None:
            self._close()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise InputError(
                f"{self.path} is cut short: bytes {offset} to {offset + length} are needed, "
                f"it has {self.size}. Download it again."
            )

    def _filled(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self._fill(offset, memoryview(data))
        return bytes(data)

    def _fill(self, offset: int, into: memoryview) -> None:
        if self._fd is None:
            _download(self.path, self._generation, offset, into)
            return
        at = 0
        while at < len(into):
            count = os.preadv(self._fd, [into[at:]], offset + at)
            if count == 0:
                raise InputError(f"{self.path} was cut short while it was read. Copy it again.")
            at += count


def _download(path: str, generation: int, offset: int, into: memoryview) -> None:
    """Fill `into` from one generation of an object; what breaks off goes on from there.

    Not by the client's `download_as_bytes`, which copies every byte several times.
    """
    from google.auth.exceptions import TransportError
    from urllib3.exceptions import HTTPError

    at, why, end = 0, "", offset + len(into)
    for trial in range(TRIES if into else 0):
        if trial:
            time.sleep(min(FIRST_WAIT * 2 ** (trial - 1), LONGEST_WAIT) * random.uniform(0.5, 1))
        try:
            with _ask(path, generation, offset + at, end) as answer:
                if answer.status != 206:
                    why = f"{answer.status} {answer.reason}"
                    _check_answer(path, answer.status)
                    continue
                if answer.headers.get("X-Goog-Generation", str(generation)) != str(generation):
                    raise _replaced(path)
                # urllib3's own readinto reads into memory of its own first.
                body = getattr(answer, "_fp", answer)
                while count := body.readinto(into[at : at + CHUNK]):
                    at += count
                if at == len(into):
                    answer.release_conn()
            why = "it ended too early"
        except (HTTPError, HTTPException, TransportError, OSError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
        if at == len(into):
            return
    if into:
        raise ConnectionError(f"Cannot read {path}, after {TRIES} tries: {why}.")


def _ask(path: str, generation: int, start: int, end: int) -> Any:
    """The answer, its body yet to be read, to a request for bytes `start` to `end` of an object."""
    from google.auth.transport.requests import Request
    from urllib3 import Timeout

    bucket, name = _split(path)
    place = f"/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    client = _client()
    client._http.credentials.before_request(
        Request(client._http), "GET", client.api_endpoint + place, headers
    )
    return _connections(client).urlopen(
        "GET",
        f"{place}?alt=media&generation={generation}",
        headers=headers,
        preload_content=False,
        retries=False,
        timeout=Timeout(connect=TIMEOUT[0], read=TIMEOUT[1]),
    )


@functools.lru_cache(1)
def _connections(client: Any) -> Any:
    """The connections of the client's session: with the proxy, certificates and authorities it uses.

    Below `requests`, which takes half a millisecond of a request.
    """
    from requests import Request

    session, endpoint = client._http, client.api_endpoint
    request = Request("GET", endpoint).prepare()
    settings = session.merge_environment_settings(endpoint, {}, None, None, None)
    return session.get_adapter(endpoint).get_connection_with_tls_context(
        request, settings["verify"], proxies=settings["proxies"], cert=settings["cert"]
    )


def _check_answer(path: str, status: int) -> None:
    """Raise what no other try will mend."""
    if status in (404, 412):
        raise _replaced(path)
    if status == 403:
        raise _no_access(path)


def _replaced(path: str) -> InputError:
    return InputError(f"{path} was replaced or removed since it was opened; open the new one.")


def _no_access(path: str) -> InputError:
    return InputError(
        f"No access to {path}; give this account the role Storage Object User on the bucket, "
        "or log in with `gcloud auth application-default login`."
    )


class _Lease:
    """Memory that goes back to `_idle` with the last array that refers to it.

    Fresh memory costs more than reading into it: the system zeroes each of its pages when it is first
    touched (a thousand in a record of 4 MB), and takes them back when the record is dropped.
    """

    def __init__(self, size: int) -> None:
        idle = _idle.setdefault(size, deque(maxlen=IDLE // size))
        try:
            self._memory = idle.pop()
        except IndexError:
            self._memory = bytearray(size)
        weakref.finalize(self, idle.append, self._memory).atexit = False

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self._memory)


_idle: dict[int, deque[bytearray]] = {}


def _buffer(length: int) -> UInt8[np.ndarray, "length"]:
    """Memory for `length` bytes; large pieces are used again."""
    if not REUSED <= length <= IDLE:
        return np.empty(length, np.uint8)
    step = 1 << (length.bit_length() - 4)  # at most an eighth is left over
    return np.frombuffer(_Lease(-(-length // step) * step), np.uint8)[:length]


@functools.cache
def _client() -> Any:
    # Imported here: a second of start-up that local runs need not pay. STORAGE_EMULATOR_HOST is
    # honoured by the client itself, which is then anonymous.
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud.storage import Client
    from requests.adapters import HTTPAdapter

    try:
        client = Client()
    except (DefaultCredentialsError, OSError):  # OSError: credentials, but no default project
        client = Client.create_anonymous_client()  # public buckets can be read by anyone
    session = client._http
    for prefix, adapter in list(session.adapters.items()):
        if type(adapter) is HTTPAdapter:  # not the one that shows a certificate of this machine
            session.mount(prefix, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return client


# A child process must not speak on its parent's connections.
os.register_at_fork(after_in_child=lambda: _client.cache_clear())


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.removeprefix(GCS).partition("/")
    if not bucket:
        raise InputError(f"{path} names no bucket; a path is gs://BUCKET/NAME.")
    return bucket, name


def _blob(path: str) -> Any:
    bucket, name = _split(path)
    return _client().bucket(bucket).blob(name)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """What the user can mend, as one line. Other failures of the service pass through."""
    from google.api_core import exceptions

    try:
        yield
    except exceptions.NotFound as why:
        raise InputError(f"There is no {path}.") from why
    except (exceptions.Forbidden, exceptions.Unauthorized) as why:
        raise _no_access(path) from why
    except (exceptions.RetryError, exceptions.ServerError) as why:
        raise ConnectionError(f"Google Cloud Storage did not answer for {path}: {why}") from why
