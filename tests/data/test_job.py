"""Shards and their resumption, with videos that are only names and networks that are arithmetic."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from omnihuman_jax import storage
from omnihuman_jax.data import beam_pipeline, job, source
from omnihuman_jax.data.beam_pipeline import Steps
from omnihuman_jax.data.candidates import Candidate, Rejection
from omnihuman_jax.data.records import Example
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from tests.cloud import cloud  # noqa: F401

GRID = Grid(5, 16, 16)


def prepare(name: str) -> Iterator[Candidate | Rejection]:
    """Two clips from a good video, and a damaged one whose name says so."""
    if "bad" in name:
        yield Rejection(id=name, source=name, reason="decode", detail="cut short", failed=True)
        return
    if "dark" in name:
        yield Rejection(id=name, source=name, reason="brightness", detail="2 < 10")
        return
    for segment in range(2):
        rng = np.random.default_rng(len(name) + segment)
        yield Candidate(
            id=f"{name}#0.{segment}",
            source=name,
            grid=GRID,
            fps=25.0,
            frames=rng.integers(0, 256, (5, 16, 16, 3), np.uint8),
            reference=np.zeros((16, 16, 3), np.uint8),
            sound=None,
            pose=np.zeros((5, 17, 3), np.float32),
            teaches=frozenset({"reference"}),
            scores={"brightness": 100.0 + segment},
        )


def encode(clips: Sequence[Candidate]) -> list[Example]:
    return [
        Example(
            id=c.id,
            source=c.source,
            text=c.text,
            latents=np.full((2, 2, 2, 4), c.frames.mean() / 255, ml_dtypes.bfloat16),
            reference=np.zeros((1, 2, 2, 4), ml_dtypes.bfloat16),
            text_features=None,
            audio_features=None,
            pose=c.pose.astype(np.float16),
            fps=c.fps,
            frames=5,
            height=16,
            width=16,
            teaches=c.teaches,
            scores=c.scores,
        )
        for c in clips
    ]


def make(raw: Any, out: Any, **changes: Any) -> job.Job:
    steps = changes.pop("steps", Steps(prepare=lambda: prepare, encode=lambda: encode, batch=3))
    settings = changes.pop("settings", {"fps": 25.0})
    return job.Job(
        raw=str(raw),
        out=str(out),
        name="t",
        steps=steps,
        settings=settings,
        fps=25.0,
        channels=4,
        fingerprints={"vae": "v"},
        limits={},
        videos_per_shard=3,
        **changes,
    )


def videos(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


NAMES = [f"a/v{i}.mp4" for i in range(6)] + ["b/dark.MOV", "b/one_bad.mkv"]


def contents(folder: str) -> dict[str, bytes]:
    """All files but the page, whose title is the folder."""
    names = [name for name in storage.files(folder) if not name.endswith(".html")]
    return {name: storage.read_bytes(storage.join(folder, name)) for name in names}


def quiet(done: int, total: int) -> None:
    pass


def test_every_clip_is_in_the_records_once_and_every_rejection_in_the_report(
    tmp_path: Path,
) -> None:
    raw = videos(tmp_path / "raw", [*NAMES, "notes.txt", ".hidden.mp4"])
    summary = job.run(make(raw, tmp_path / "out"), quiet)
    records = source.RecordSource(str(tmp_path / "out"))
    wanted = {f"a/v{i}.mp4#0.{s}" for i in range(6) for s in range(2)}
    assert sorted(records[i].id for i in range(len(records))) == sorted(wanted)
    assert (summary["kept"], summary["rejected"]) == (12, 2)
    assert summary["reasons"] == {"brightness": 1, "decode": 1}


def steps(fails: str) -> Steps:
    """Those of above, except that preparing a video whose name begins so is an error of ours."""

    def failing(name: str) -> Iterator[Candidate | Rejection]:
        if name.startswith(fails):
            raise ZeroDivisionError("stopped")
        yield from prepare(name)

    return Steps(prepare=lambda: failing, encode=lambda: encode, batch=3)


def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    raw = videos(tmp_path / "raw", NAMES)
    whole, out = tmp_path / "whole", tmp_path / "out"
    job.run(make(raw, whole), quiet)
    with pytest.raises(Exception, match="stopped"):
        job.run(make(raw, out, steps=steps(fails=NAMES[4])), quiet)
    assert (out / "t-00000-of-00003.index").exists()
    assert not (out / "t-00001-of-00003.index").exists()
    assert not (out / "dataset.json").exists()
    job.run(make(raw, out, steps=steps(fails=NAMES[0])), quiet)  # the first shard is not made again
    assert contents(str(out)) == contents(str(whole))
    job.run(make(raw, out, steps=steps(fails="")), quiet)  # nor is any, once all are there


def test_bytes_do_not_depend_on_how_much_is_made_at_once(tmp_path: Path) -> None:
    raw = videos(tmp_path / "raw", NAMES)
    job.run(make(raw, tmp_path / "one"), quiet)
    job.run(make(raw, tmp_path / "all", at_once=10), quiet)
    assert contents(str(tmp_path / "one")) == contents(str(tmp_path / "all"))


def test_a_shard_does_not_depend_on_the_order_in_which_its_clips_arrive(tmp_path: Path) -> None:
    shard = beam_pipeline.Shard(0, 1, tuple(NAMES))
    clips = [clip for name in NAMES for clip in prepare(name)]
    kept = [clip for clip in clips if isinstance(clip, Candidate)]
    rows = [beam_pipeline._kept(0, (example, b""))[1] for example in encode(kept)] + [
        (c.id, beam_pipeline._rejected(c), b"") for c in clips if isinstance(c, Rejection)
    ]
    for folder, order in (("one", rows), ("two", rows[::-1])):
        beam_pipeline.write(str(tmp_path / folder), "t", shard, order)
    assert contents(str(tmp_path / "one")) == contents(str(tmp_path / "two"))


def test_gs_holds_the_same_bytes(tmp_path: Path, cloud: str) -> None:  # noqa: F811
    raw = videos(tmp_path / "raw", NAMES)
    for name in NAMES:
        storage.write_bytes(f"{cloud}/raw/{name}", b"x")
    job.run(make(raw, tmp_path / "out"), quiet)
    job.run(make(f"{cloud}/raw", f"{cloud}/out"), quiet)
    assert contents(f"{cloud}/out") == contents(str(tmp_path / "out"))


def test_more_than_five_percent_of_damaged_videos_fail_their_shard_alone(tmp_path: Path) -> None:
    names = [*NAMES[:3], "b/bad1.mp4", "b/bad2.mp4", "b/good.mp4"]
    raw, out = videos(tmp_path / "raw", names), tmp_path / "out"
    with pytest.raises(InputError, match=re.escape("1 of 2 shards have more than 5% damaged")):
        job.run(make(raw, out), quiet)
    assert (out / "t-00000-of-00002.index").exists()
    assert not (out / "t-00001-of-00002.tfrecord").exists()
    assert not (out / "dataset.json").exists()
    rows = (out / "report/t-00001-of-00002.jsonl").read_text().splitlines()
    assert [json.loads(row)["reason"] for row in rows].count("decode") == 2


def test_a_folder_begun_with_other_settings_is_left_alone(tmp_path: Path) -> None:
    raw, out = videos(tmp_path / "raw", NAMES), tmp_path / "out"
    job.run(make(raw, out), quiet)
    before = contents(str(out))
    with pytest.raises(InputError, match=r"begun with other settings.*--overwrite"):
        job.run(make(raw, out, settings={"fps": 24.0}), quiet)
    videos(raw, ["z.mp4"])
    with pytest.raises(InputError, match="begun with other videos"):
        job.run(make(raw, out), quiet)
    assert contents(str(out)) == before
    job.run(make(raw, out, overwrite=True), quiet)
    assert len(source.RecordSource(str(out))) == 14


def test_overwrite_never_removes_what_preprocess_did_not_make(tmp_path: Path) -> None:
    raw, out = videos(tmp_path / "raw", NAMES), videos(tmp_path / "out", ["holiday.jpg"])
    for overwrite in (False, True):
        with pytest.raises(InputError, match="another"):
            job.run(make(raw, out, overwrite=overwrite), quiet)
    assert contents(str(out)) == {"holiday.jpg": b"x"}


def test_a_folder_without_videos_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no videos in .*\.mp4"):
        job.run(make(tmp_path, tmp_path / "out"), quiet)
