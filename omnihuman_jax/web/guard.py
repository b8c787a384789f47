"""What the server answers at all. Gradio has many more routes than one page needs; those are closed."""

import re
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import unquote

type Scope = dict[str, Any]
type App = Callable[[Scope, Any, Any], Awaitable[None]]

FILE = "/gradio_api/file="
# What the page asks for, seen in a browser.
OPEN = re.compile(
    r"/|/config|/theme\.css|/assets/.+|/static/.+|/favicon\.ico|/manifest\.json|/robots\.txt"
    r"|/gradio_api/(upload|upload_progress|queue/join|queue/data|run/predict|cancel|reset|app_id"
    r"|startup-events|heartbeat/[\w-]+)/?"
)


class Guard:
    """Answers 403 to any path but those of the page, and to any file outside of its folder.

    Args:
        folder: the only one that files are read from.
        hosts: names by which the server may be called; None for any. A page of another site can make
            a browser on this machine ask, but cannot hide its own name.
    """

    def __init__(self, app: App, folder: Path, hosts: Collection[str] | None) -> None:
        self._app, self._folder, self._hosts = app, folder, hosts

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._allows(scope)):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": b"This server has no such page."})

    def _allows(self, scope: Scope) -> bool:
        path, headers = scope["path"], dict(scope["headers"])
        if self._hosts is not None:
            called = headers.get(b"host", b"").decode("latin-1")
            asking = headers.get(b"origin", b"http://" + called.encode()).decode("latin-1")
            names = {
                re.sub(r":\d+$", "", name.partition("://")[2]) for name in (f"://{called}", asking)
            }
            if not names <= set(self._hosts):
                return False
        if path.startswith(FILE):
            return inside(path.removeprefix(FILE), self._folder)
        return OPEN.fullmatch(path) is not None and ".." not in path


def inside(name: str, folder: Path) -> bool:
    """Whether a path leads into the folder, links followed, written in any way."""
    try:
        root = folder.resolve()
        return all(Path(read).resolve().is_relative_to(root) for read in (name, unquote(name)))
    except (OSError, ValueError, RuntimeError):
        return False
