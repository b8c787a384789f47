"""A proxy before the storage server that fails when it is told to: statuses, broken connections, delays."""

import contextlib
import http.client
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from omnihuman_jax import storage


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" contains `match`.

    Attributes:
        status: answered in place of the server's.
        drop: the server never sees the request; the connection is reset.
        cut: bytes of the answer's body that are sent before the connection is reset.
        polite: it is closed instead: a reset may destroy what was sent and not yet read.
        delay: seconds before the answer.
        then: called before the answer is sent, once the server has made it.
    """

    match: str
    times: int = 1
    status: int | None = None
    drop: bool = False
    cut: int | None = None
    polite: bool = False
    delay: float = 0.0
    then: Callable[[], object] = lambda: None


@dataclass
class Faults:
    """What the proxy does, and what it has seen: "METHOD path" and Range of every request."""

    url: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    _waiting: list[Fault] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    def add(self, match: str, **what: Any) -> None:
        self._waiting.append(Fault(match, **what))

    def left(self) -> int:
        """Faults that have not happened."""
        return sum(fault.times for fault in self._waiting)

    def next(self, request: str, range_: str) -> Fault:
        with self._lock:
            self.seen.append((request, range_))
            for fault in self._waiting:
                if fault.match in request and fault.times:
                    fault.times -= 1
                    return fault
        return Fault("")


@pytest.fixture
def faults(cloud: str) -> Iterator[Faults]:
    """Everything in this process reaches the server of `cloud` through a proxy; its faults."""
    plan = Faults()
    behind = os.environ["STORAGE_EMULATOR_HOST"]
    server = _Server(("127.0.0.1", 0), _handler(plan, behind))
    plan.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", plan.url)
        storage._client.cache_clear()
        yield plan
    storage._client.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def shutdown_request(self, request: Any) -> None:
        request.close()  # without a polite end first: a reset stays a reset

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


def _handler(plan: Faults, behind: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = f"{self.command} {self.path}"
            fault = plan.next(request, self.headers.get("Range", ""))
            time.sleep(fault.delay)
            if fault.drop:
                self._reset()
                return
            if fault.status:
                fault.then()
                self._answer(fault.status, [], b"")
                return
            with contextlib.closing(
                http.client.HTTPConnection(behind.removeprefix("http://"))
            ) as up:
                up.request(self.command, self.path, body, dict(self.headers))
                answer = up.getresponse()
                content = answer.read()
            fault.then()
            headers = [(k, v.replace(behind, plan.url)) for k, v in answer.getheaders()]
            self._answer(answer.status, headers, content, fault.cut, fault.polite)

        def _answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            body: bytes,
            cut: int | None = None,
            polite: bool = False,
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True
                if not polite:
                    time.sleep(0.02)  # so that most of what was sent is read
                    self._reset()

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
