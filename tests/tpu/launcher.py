"""Runs tpu/launch.sh with a gcloud that sends nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "tpu/launch.sh"
V6E = ("--type", "v6e-16", "--zone", "us-east5-b", "--workdir", "gs://b/runs/r")
CONFIG = ("--", "configs/tiny.py", "seed=3")


class Cloud:
    """A Cloud TPU of our own, in a folder, and the launcher on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("gcloud", "xpk"):
            path = folder / "bin" / name
            path.write_text(
                f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__).parent}/gcloud.py "$@"\n'
            )
            path.chmod(0o755)
        self.script()
        self.environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "FAKE_CLOUD": str(folder),
            "LAUNCH_STATE": str(folder / "launch"),
            "LAUNCH_PAUSE": "0",
        }

    def script(self, **changes) -> None:
        """How the cloud behaves; see gcloud.py."""
        (self.folder / "script.json").write_text(json.dumps(changes))

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess:
        """Run the launcher; it ends with this exit code."""
        done = subprocess.run(
            [str(LAUNCH), *words],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def calls(self, *verb: str) -> list[list[str]]:
        """The arguments of each call of gcloud that has these words, in order."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words for words in map(json.loads, lines) if all(v in words for v in verb)]

    def commands(self, verb: str) -> list[str]:
        """What ssh was told to do with worker.sh."""
        told = [
            w.removeprefix("--command=")
            for c in self.calls("ssh")
            for w in c
            if w.startswith("--command=")
        ]
        return [command for command in told if f"worker.sh {verb}" in command]

    def exists(self) -> bool:
        """Whether machines are there, which cost."""
        return json.loads((self.folder / "state.json").read_text())["there"]
