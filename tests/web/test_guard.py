"""What the server answers: its page, files of its folder, and nothing else."""

import asyncio

import pytest

from omnihuman_jax.cli_serve import LOOPBACK
from omnihuman_jax.web.guard import Guard


@pytest.fixture
def ask(tmp_path):
    """Whether a guard before a folder lets a request through."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "video.mp4").write_bytes(b"video")
    (tmp_path / "secret").write_bytes(b"mine")
    (folder / "way-out").symlink_to(tmp_path / "secret")
    (tmp_path / "served-too").mkdir()

    def answer(path, host="127.0.0.1:7860", origin=None, hosts=LOOPBACK, kind="http"):
        reached, sent = [], []

        async def app(scope, receive, send):
            reached.append(scope["path"])

        async def send(message):
            sent.append(message)

        headers = [(b"host", host.encode())]
        headers += [] if origin is None else [(b"origin", origin.encode())]
        scope = {"type": kind, "path": path, "headers": headers}
        asyncio.run(Guard(app, folder, hosts)(scope, None, send))
        assert bool(reached) != bool(sent) and (reached or sent[0]["status"] == 403)
        return bool(reached)

    return answer


def test_the_page_is_answered(ask):
    for path in ("/", "/config", "/assets/index-1.js", "/gradio_api/upload"):
        assert ask(path), path


def test_a_file_of_the_folder_is_answered_and_no_other(ask, tmp_path):
    for name in ("video.mp4", "100%.mp4", "a%20b.mp4"):
        assert ask(f"/gradio_api/file={tmp_path}/served/{name}")
    for path in (
        f"{tmp_path}/secret",
        f"{tmp_path}/served/../secret",
        f"{tmp_path}/served/%2e%2e/secret",
        f"{tmp_path}/served/..%2fsecret",
        f"{tmp_path}/served/way-out",
        f"{tmp_path}/served-too",
        "/etc/passwd",
        "served/video.mp4\0",
        "http://127.0.0.1/",
    ):
        assert not ask(f"/gradio_api/file={path}"), path


def test_routes_that_the_page_does_not_need_are_closed(ask):
    for path in (
        "/gradio_api/info", "/gradio_api/runs", "/gradio_api/proxy=http://a/", "/gradio_api/deep_link",
        "/gradio_api/file/etc/passwd", "/docs", "/openapi.json", "/monitoring", "/login",
        "/assets/../../secret", "/gradio_api/mcp/", "/gradio_api/call/generate", "/gradio_api/dev/reload",
    ):  # fmt: skip
        assert not ask(path), path
    assert not ask("/", kind="websocket")


def test_a_page_of_another_site_that_resolves_to_this_machine_is_refused(ask):
    assert ask("/", host="localhost:9") and ask("/", host="[::1]:9") and ask("/", host="localhost")
    assert not ask("/", host="evil.example:7860") and not ask("/", host="")
    assert ask("/", host="gpu-box:7860", hosts=None)


def test_a_page_of_another_site_may_not_ask(ask):
    upload = "/gradio_api/upload"
    assert ask(upload, origin="http://127.0.0.1:7860") and ask(upload, origin="http://localhost:9")
    for origin in ("https://evil.example", "null", "", "http://127.0.0.1.evil.example"):
        assert not ask(upload, origin=origin), origin
    assert ask(upload, host="gpu-box:7860", origin="http://gpu-box:7860", hosts=None)
