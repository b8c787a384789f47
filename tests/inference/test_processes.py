"""Several processes make the video of one; a killed one goes on where it was."""

import os
import signal
import socket
import subprocess
import sys
import time

import av
import numpy as np
import pytest

pytestmark = pytest.mark.slow

SMALL = ["--model", "mini-untrained", "--size", "32x32", "--steps", "1", "--quiet"]
SAID = ["--text", "hello", "--audio-guidance", "3", "--text-guidance", "2"]


def started(*arguments, **environment):
    """`omnihuman generate` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "omnihuman_jax", "generate", *SMALL, *arguments],
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def frames(path):
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(shown).astype(int)


def test_two_processes_of_two_devices_make_the_video_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_all = dict(
        JAX_NUM_CPU_DEVICES="2",
        JAX_NUM_PROCESSES="2",
        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
    )
    voice = ["--audio", "omnihuman_jax/examples/speech.flac", "--frames", "5"]
    both = [
        started(*SAID, *voice, "--mesh", "context=4", "--out", str(tmp_path / f"{number}.mp4"),
                **of_all, JAX_PROCESS_ID=str(number))
        for number in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "Wrote" in said[0] and "Wrote" not in said[1] and not (tmp_path / "1.mp4").exists()
    alone = started(*SAID, *voice, "--out", str(tmp_path / "one.mp4"))
    assert alone.wait(timeout=240) == 0, alone.stdout.read()
    # Sums over devices in another order: a step or two of 255, spread by the codec. (None was seen.)
    assert np.abs(frames(tmp_path / "0.mp4") - frames(tmp_path / "one.mp4")).max() <= 4


def test_a_killed_process_goes_on_with_its_segment_and_ends_in_the_same_video(tmp_path):
    out, whole = tmp_path / "out.mp4", tmp_path / "whole.mp4"
    long = ["--text", "hello", "--frames", "137"]  # three segments
    process = started(*long, "--out", str(out))
    segments = tmp_path / "out.mp4.segments"
    deadline = time.monotonic() + 200
    while not list(segments.glob("*.npz")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    again = started(*long, "--out", str(out))
    assert again.wait(timeout=240) == 0, again.stdout.read()
    assert not segments.exists()
    process = started(*long, "--out", str(whole))
    assert process.wait(timeout=240) == 0, process.stdout.read()
    assert out.read_bytes() == whole.read_bytes()
