"""The flags of `serve`: what cannot work is one line and exit code 2, before anything is loaded."""

import socket

import pytest

from tests.test_cli import refused


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--port", "99999"], "--port lies between 0 and 65535"),
        (["--max-seconds", "0"], "--max-seconds is above 0"),
        (["--max-seconds", "nan"], "--max-seconds is above 0"),
        (["--max-size", "-1"], "--max-size is above 0"),
        (["--max-pixels", "0"], "--max-pixels is above 0"),
        (["--queue", "-1"], "--queue is 0 or more"),
        (["--host", "203.0.113.7", "--port", "0"], "Cannot listen at --host 203.0.113.7"),
        (["--work", "/dev/null/here", "--port", "0"], "--work /dev/null/here cannot be written"),
    ],
)
def test_a_flag_that_cannot_work_is_refused(capsys, arguments, says):
    assert says in refused(capsys, "serve", *arguments)


def test_a_port_that_is_taken_is_refused(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port}" in refused(capsys, "serve", "--port", port)
