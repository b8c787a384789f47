"""The only place that keeps what visitors handed in and got, and deletes it when it is old."""

import dataclasses
import json
import re
import secrets
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnihuman_jax import media
from omnihuman_jax.errors import InputError
from omnihuman_jax.web.form import Form

REQUESTS, EXAMPLES = "requests", "examples"
NAME = re.compile(r"[A-Za-z0-9_-]{22}")  # 128 random bits: who does not have the link has no chance


@dataclass(frozen=True)
class Shelf:
    """A folder with a folder for every request: its form, the files of it, and the video.

    Attributes:
        root: the folder. The page's uploads lie in it too.
    """

    root: Path

    def put(self, form: Form) -> tuple[str, Form]:
        """Keep a form with copies of its files; its id, and the form with those copies."""
        name = secrets.token_urlsafe(16)
        folder = self._requests / name
        copies: dict[str, Any] = {}
        for field, path in form.files().items():
            copy = folder / field / Path(path).name
            copy.parent.mkdir(parents=True)
            shutil.copyfile(path, copy)
            copies[field] = str(copy)
        folder.mkdir(parents=True, exist_ok=True)
        kept = dataclasses.replace(form, **copies)
        (folder / "form.json").write_text(json.dumps(dataclasses.asdict(kept)))
        return name, kept

    def get(self, name: str) -> Form:
        """The form that `put` gave this id.

        Raises:
            InputError: there is none, or none any more.
        """
        gone = InputError("What this link repeats is not on the server any more.")
        if not NAME.fullmatch(name):
            raise gone
        try:
            form = Form(**json.loads((self._requests / name / "form.json").read_text()))
        except (OSError, ValueError, TypeError) as why:
            raise gone from why
        if not all(Path(path).is_file() for path in form.files().values()):
            raise gone
        return form

    def video(self, name: str) -> Path:
        """Where the video of a request is, or will be."""
        return self._requests / name / "video.mp4"

    def preview(self, name: str, number: int) -> Path:
        """Where a part of it is that can be looked at before the whole is there."""
        return self._requests / name / f"part-{number}.mp4"

    def forget(self, name: str) -> None:
        """A request that was refused."""
        shutil.rmtree(self._requests / name, ignore_errors=True)

    def sweep(self, hours: float, but: Collection[str] = ()) -> int:
        """Delete folders that nothing was written to for so long, uploads and requests alike.

        Args:
            but: names to leave.

        Returns:
            how many went.
        """
        before, swept = time.time() - hours * 3600, 0
        for folder in (*self.root.glob("*"), *self._requests.glob("*")):
            if folder.name in (REQUESTS, EXAMPLES, *but) or not folder.is_dir():
                continue
            times = [one.stat().st_mtime for one in (folder, *folder.rglob("*"))]
            if max(times) < before:
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
        return swept

    def example(self, name: str) -> str:
        """A copy of an example input, where the page may show it."""
        copy = self.root / EXAMPLES / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(media.example(name), copy)
        return str(copy)

    @property
    def _requests(self) -> Path:
        return self.root / REQUESTS
