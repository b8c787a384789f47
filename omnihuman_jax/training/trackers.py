"""The only place where numbers of a run are written: metrics.jsonl always, wandb and TensorBoard if asked."""

import json
import math
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError

RECORD = "metrics.jsonl"
PATIENCE = 30.0  # seconds between two copies to gs://


class Tracker(Protocol):
    """Who shows a run. What it raises as OSError must not end the training."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def sample(self, step: int, video: Path, sheet: Path, scores: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Record:
    """`metrics.jsonl`: one JSON object a line, never rewritten but for what a restart undoes.

    What is no finite number is the word "nan", "inf" or "-inf", which `float` reads; JSON has none.

    Attributes:
        dropped: lines of steps that the run does again, as they were.
    """

    def __init__(self, folder: Path, resumed_at: int) -> None:
        """Drop the lines of steps behind `resumed_at`, and one that was cut off in the middle."""
        path = folder / RECORD
        self.dropped: list[dict[str, Any]] = []
        kept = []
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            told = _parsed(line)
            if told is not None and told["step"] <= resumed_at:
                kept.append(line)
            elif told is not None:
                self.dropped.append(told)
        storage.write_bytes(str(path), b"".join(kept))
        self._file = path.open("ab", buffering=0)

    def write(self, told: Mapping[str, Any]) -> None:
        line = {name: _plain(value) for name, value in told.items()}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None of one that was cut off, or of other things."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) and isinstance(told.get("step"), int) else None


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Wandb:
    """Weights & Biases. Offline it writes below `folder`/wandb and asks the network nothing.

    A life of the run after another has the same id; `wandb sync FOLDER/wandb` makes one run of them. The
    axis of every plot is our own step, so what a restart does again lies on what it had done before.
    """

    def __init__(
        self,
        folder: Path,
        mode: Literal["offline", "online"],
        *,
        project: str,
        name: str,
        run_id: str,
        config: Mapping[str, Any],
    ) -> None:
        if mode == "offline":
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # it would tell its makers that it runs
        try:
            import wandb  # here: it takes seconds, and whoever does not want it need not have it
        except ImportError as why:
            raise InputError(
                "watch.wandb needs the package wandb; install it, or say watch.wandb=off."
            ) from why
        self._wandb = wandb
        try:
            self._run = wandb.init(
                mode=mode,
                dir=str(folder.absolute()),
                project=project,
                name=name,
                id=run_id,
                resume="allow",
                config=dict(config),
                reinit="create_new",  # leave a run alone that the caller's own code has open
                settings=wandb.Settings(console="off", silent=True),  # the terminal is ours
            )
        except wandb.errors.Error as why:
            raise InputError(
                f"wandb cannot begin {mode}: {one_line(why)} Run `wandb login`, or say watch.wandb=offline."
            ) from why
        self._run.define_metric("*", step_metric="step")
        self.address: str | None = self._run.url if mode == "online" else None

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({**numbers, "step": step})

    def sample(self, step: int, video: Path, sheet: Path, scores: Mapping[str, float]) -> None:
        shown = {
            "sample/video": self._wandb.Video(str(video), format="mp4"),
            "sample/frames": self._wandb.Image(str(sheet)),
        }
        self._run.log({**scores, **shown, "step": step})

    def close(self) -> None:
        self._run.finish(exit_code=0 if sys.exception() is None else 1)


class TensorBoard:
    """Event files below `folder`/tensorboard, one for each life of the run."""

    def __init__(self, folder: Path, config: Mapping[str, Any], resumed_at: int) -> None:
        try:
            from tensorboardX import SummaryWriter  # here: see Wandb
        except ImportError as why:
            raise InputError(
                "watch.tensorboard needs the package tensorboardX; install it, or say "
                "watch.tensorboard=false."
            ) from why
        # What an earlier life wrote of later steps is hidden.
        purge = resumed_at + 1 if resumed_at else None
        self._writer = SummaryWriter(
            str(folder / "tensorboard"),
            purge_step=purge,
            flush_secs=30,
            filename_suffix=f".{secrets.token_hex(4)}",  # else two lives in a second have one name
        )
        text = json.dumps(config, indent=1, default=str).replace("\n", "\n    ")
        self._writer.add_text("config", f"    {text}", resumed_at)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def sample(self, step: int, video: Path, sheet: Path, scores: Mapping[str, float]) -> None:
        self.log(step, scores)
        with Image.open(sheet) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image("sample/frames", pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Place:
    """Where the files of a run are written: its workdir, or a local folder that is copied to gs://.

    Nothing is appended to on gs://, so there whole files go up, in the background and not more often than
    every `PATIENCE` seconds: who pulls the plug loses as much of the record.
    """

    def __init__(self, workdir: str, known: list[str], tell: Callable[[str], None]) -> None:
        """`known`: files to bring from gs:// first, where they are there. `tell`: hears of failures."""
        self.workdir, self._tell = workdir, tell
        self._thread: threading.Thread | None = None
        if not storage.is_remote(workdir):
            self.folder = Path(workdir)
            self.folder.mkdir(parents=True, exist_ok=True)
            return
        self.folder = Path(tempfile.mkdtemp(prefix="omnihuman-"))
        self._sent: dict[str, list[int]] = {}
        for name in known:
            if storage.is_file(source := storage.join(workdir, name)):
                storage.write_bytes(str(self.folder / name), storage.read_bytes(source))
        self._sent = storage.identities(str(self.folder))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._copy_now_and_then, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Copy what is left.

        Raises:
            ConnectionError, InputError: it could not be; the local folder stays, and is named.
        """
        if self._thread is None:
            return
        self._done.set()
        self._thread.join()
        self._thread = None
        try:
            self._copy()
        except (OSError, InputError) as why:
            kind = InputError if isinstance(why, InputError) else ConnectionError
            raise kind(f"{one_line(why)} What is not there yet is in {self.folder}.") from why
        shutil.rmtree(self.folder)

    def _copy_now_and_then(self) -> None:
        while not self._done.wait(PATIENCE):
            try:
                self._copy()
            except (OSError, InputError) as why:  # once more the next time
                self._tell(f"The record of the run did not go to {self.workdir}: {one_line(why)}")

    def _copy(self) -> None:
        for name, now in storage.identities(str(self.folder)).items():
            path = self.folder / name
            if self._sent.get(name) != now and not path.is_symlink():
                storage.write_bytes(storage.join(self.workdir, name), path.read_bytes())
                self._sent[name] = now


def one_line(why: BaseException) -> str:
    """An error in one line that ends in a full stop."""
    words = " ".join(str(why).split()) or type(why).__name__
    return words if words.endswith((".", "!", "?")) else f"{words}."
