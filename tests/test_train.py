"""`omnihuman train` and its config files, from the command line."""

import json
from pathlib import Path

import pytest

from omnihuman_jax import config
from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError

TINY = "configs/tiny.py"
# A stage of one update each, two puppets: what the whole does, in seconds.
SMALL = [
    *(f"stages.{n}.steps={steps}" for n, steps in enumerate((1, 1, 2))),
    "rehearsal.clips=2",
    "save.every=2",
    "watch.tensorboard=false",
]


def test_settings_are_printed_and_nothing_runs(tmp_path, capsys):
    folder = tmp_path / "run"
    assert (
        main(["train", TINY, "--workdir", str(folder), "--settings", "stages.audio.batch=2"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["stages"][1]["batch"] == 2 and printed["name"] == "tiny"
    assert not folder.exists()


def test_settings_may_stand_anywhere_and_other_words_may_not(capsys):
    words = ["train", TINY, "seed=1", "--workdir", "x", "stages.0.steps=3", "--settings", "seed=2"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["stages"][0]["steps"] == 3 and printed["seed"] == 2, "the last one wins"
    for odd in (["--workdri", "y"], ["word"], ["--no-such=3"]):
        with pytest.raises(SystemExit):
            main([*words, *odd])
        assert "unrecognized" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, says",
    [
        ("experiment = 3", "builds no Experiment"),
        ("import nowhere_to_be_found", "cannot be read: ModuleNotFoundError"),
        ("experiment = (", "cannot be read: SyntaxError"),
        ("from omnihuman_jax.training.step import Update\nUpdate(patience=0)", "patience"),
    ],
)
def test_a_config_that_builds_nothing_says_why(tmp_path, text, says):
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(InputError, match=says):
        config.load(str(tmp_path / "wrong.py"))


def test_a_config_that_is_not_there_names_those_that_are(capsys):
    assert main(["train", "configs/tinny.py", "--workdir", "x"]) == 2
    assert "tiny.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["stages.0.stepz=1"], "stepz"),
        (["task.model=nowhere"], "nowhere is not a model directory"),
    ],
)
def test_bad_settings_are_one_line_and_exit_code_2(tmp_path, capsys, arguments, says):
    assert main(["train", TINY, *arguments, "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_a_workdir_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert main(["train", TINY, "--workdir", str(tmp_path / "run")]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_tiny_config_draws_its_puppets_trains_and_goes_on(tmp_path, capsys):
    """On the eight devices of the tests: a batch of 8."""
    folder = tmp_path / "run"
    arguments = ["train", TINY, *SMALL, *(f"stages.{n}.batch=8" for n in range(3)), "--json"]
    assert main([*arguments, "--workdir", str(folder)]) == 0
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert outcome == {"step": 4, "finished": True, "model": str(folder / "model")}
    assert (folder / "records/dataset.json").is_file() and (folder / "model/model.json").is_file()
    steps = [
        json.loads(line)["step"]
        for line in (folder / "metrics.jsonl").read_text().split("\n")
        if line
    ]
    longer = [*arguments, "stages.2.steps=3", "--workdir", str(folder)]
    before = (folder / "records/dataset.json").stat().st_mtime_ns
    assert main(longer) == 0
    said = capsys.readouterr()
    assert "Going on from step 4 of 5" in said.out + said.err
    assert json.loads(said.out.splitlines()[-1])["step"] == 5
    assert (folder / "records/dataset.json").stat().st_mtime_ns == before, "drawn once"
    assert Path(folder / "model/model.json").is_file() and steps[0] <= 4
