"""A study from its first command to its report: nothing twice, and on after a failure or an end between."""

import json
from pathlib import Path

import numpy as np
import pytest

from omnihuman_jax.ablation import making, running, whole
from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.pipeline import Pipeline
from omnihuman_jax.models.building import FLOAT32
from omnihuman_jax.models.mini import find
from omnihuman_jax.testsets.reading import open_testset
from tests.ablation import worlds

STANDIN = Path(__file__).parent / "standin.py"


@pytest.fixture(scope="module")
def testset(tmp_path_factory):
    return str(worlds.puppets(tmp_path_factory.mktemp("puppets")))


@pytest.fixture
def written(tmp_path, testset, monkeypatch):
    """A study's file and folder; its commands are stood in for, and noted in `log`."""
    real = running.real
    stood = lambda command: real(["python", str(STANDIN), str(tmp_path / "log"), *command])
    monkeypatch.setattr(running, "real", stood)
    file = tmp_path / "study.py"
    file.write_text(f"from tests.ablation.worlds import study as made\nstudy = made({testset!r})\n")
    return file, tmp_path / "work", tmp_path / "log"


def test_a_study_runs_whole_and_again_does_nothing(written, capsys):
    file, folder, log = written
    words = ["ablate", str(file), "--workdir", str(folder), "--jobs", "2", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["points"] == 4 and told["missing"] == []
    ran = log.read_text().splitlines()
    assert len(ran) == len(set(ran)) == 4 * (1 + 2 * 2), (
        "a training, and two seeds made and measured"
    )
    assert main(words) == 0 and log.read_text().splitlines() == ran
    found = json.loads((folder / whole.RESULTS).read_text())["metrics"]["talk"]["lips"]
    assert found["points"]["base"]["value"] == 2.5
    assert found["less_base"]["audio-10"] == {"value": -1, "low": -1, "high": -1, "count": 2}
    page = (folder / whole.REPORT).read_text()
    assert page.count(f'src="{whole.TRUTH}/talk/') == 2
    capsys.readouterr()
    assert main([*words[:4], "--dry-run"]) == 0
    assert (
        "# 0 of 20 commands are to be run: 0 updates in 0 trainings, 0 videos"
        in capsys.readouterr().out
    )


def test_a_point_that_fails_leaves_the_others_whole_and_is_tried_again(written, capsys):
    file, folder, log = written
    (fails := Path(f"{log}.fails")).touch()
    words = ["ablate", str(file), "--workdir", str(folder)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "omnihuman ablate: train seed-1 failed: error: no memory" in said
    assert "1 failed, 4 wait" in said
    page = (folder / whole.REPORT).read_text()
    assert "3 of 4 points are whole" in page and "not trained" in page
    before = log.read_text().splitlines()
    fails.unlink()
    assert main(words) == 0
    again = log.read_text().splitlines()[len(before) :]
    assert len(again) == 5 and "seed=1" in again[0]
    assert "4 of 4 points are whole" in (folder / whole.REPORT).read_text()


def test_a_base_config_that_was_changed_is_noticed(written, capsys, monkeypatch):
    file, folder, _ = written
    assert main(["ablate", str(file), "--workdir", str(folder)]) == 0
    file.write_text(file.read_text().replace("made(", "made(base='configs/tiny2.py', testset="))
    (file.parent / "configs").mkdir()
    tiny = Path("configs/tiny.py").read_text().replace("steps=8", "steps=9")
    (file.parent / "configs/tiny2.py").write_text(tiny)
    monkeypatch.chdir(file.parent)
    capsys.readouterr()
    assert main(["ablate", str(file), "--workdir", str(folder)]) == 2
    assert "was begun in" in capsys.readouterr().err


def test_videos_are_asked_for_as_the_clips_are(testset, tmp_path, monkeypatch):
    """What is given, how long, how large, which seed; and none that is there already."""
    written = []

    def write(self, requests, paths, progress=None, saved=None):
        for request, path in zip(requests, paths, strict=True):
            Path(path).touch()
            written.append((Path(path).stem, request))
        return 0

    monkeypatch.setattr(Pipeline, "write", write)
    pipe, clips = Pipeline(find("mini"), FLOAT32), open_testset(testset)
    assert making.make(testset, tmp_path, pipe, ("reference", "audio"), seed=3, together=2) == 2
    for number, (name, request) in enumerate(written):
        clip = clips[number]
        assert name == clip.id and request.seed == 3000 + number
        assert (request.length, request.grid.height, request.fps) == (17, 64, 25.0)
        assert request.text is None and request.pose is None
        np.testing.assert_array_equal(request.reference, clip.reference)
        np.testing.assert_array_equal(request.audio, clip.sound)
    (tmp_path / f"{clips[1].id}.mp4").unlink()
    assert making.make(testset, tmp_path, pipe, ("text",), seed=3) == 1
    assert written[-1][0] == clips[1].id and written[-1][1].text == clips[1].text
    with pytest.raises(InputError, match="no test set"):
        making.make(str(tmp_path), tmp_path, pipe, ("text",), seed=3)
