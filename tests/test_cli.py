"""The command line: exit codes, one line for bad input, no half-written output, a video at the end."""

import argparse
import json
import subprocess
import sys
import wave

import numpy as np
import pytest
from PIL import Image

from omnihuman_jax import cli_generate, cli_serve
from omnihuman_jax.cli import VERBS, main
from omnihuman_jax.media import probe_video
from omnihuman_jax.models import building
from tests.media.test_pictures import png_header

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "1", "--quiet"]


def refused(capsys, *arguments):
    """Run; the one line on stderr."""
    assert main([*arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err, err
    return err


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder with unusable inputs, as the working folder."""
    monkeypatch.chdir(tmp_path)
    with wave.open("empty.wav", "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
    Image.new("RGB", (1, 1)).save("dot.png")
    (tmp_path / "huge.png").write_bytes(png_header(20_000, 20_000))
    (tmp_path / "text.txt").write_text("hello")
    return tmp_path


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--audio", "empty.wav"], "empty.wav"),
        (["--reference", "dot.png"], "1x1"),
        (["--reference", "huge.png"], "huge.png is too large"),
        (["--reference", "text.txt"], "text.txt"),
        (["--audio", "text.txt"], "text.txt"),
        (["--frames", "48"], "4n+1"),
        (["--size", "100x100"], "multiple of 16"),
        (["--steps", "0"], "at least 1 step"),
        (["--model", "nothing-here"], "not a model directory"),
        (["--out", "video.avi"], ".mp4"),
        (["--out", "text.txt/out.mp4", "--text", "a"], "text.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(inputs, capsys, arguments, says):
    before = sorted(inputs.iterdir())
    assert says in refused(capsys, "generate", *arguments)
    assert sorted(inputs.iterdir()) == before, "nothing half-written stays"


@pytest.mark.parametrize(
    "arguments", [["generate", "--size", "wide"], ["generate", "--fast"], [], ["sing"]]
)
def test_a_wrong_argument_is_exit_code_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_every_setting_with_its_default(capsys, verb):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    parser = argparse.ArgumentParser()
    VERBS[verb].add_arguments(parser)
    optional = [
        a for a in parser._actions if a.option_strings and a.default not in (None, "==SUPPRESS==")
    ]
    assert shown.count("(default:") >= len(optional)


def test_help_answers_at_once_without_jax():
    code = "import sys; from omnihuman_jax import cli; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "line, says",
    [
        ('{"text": "a"', "line 2: not a JSON object"),
        ('{"txt": "a", "out": "b.mp4"}', "line 2: no setting txt"),
        ('{"steps": "3", "out": "b.mp4"}', "line 2: steps cannot be '3'"),
        ('{"anneal": "wild", "out": "b.mp4"}', "line 2: anneal cannot be 'wild'"),
        ('{"text": "a"}', 'line 2: needs an "out"'),
        ('{"text": "a", "out": "a.mp4"}', 'line 2: needs an "out" of its own'),
        ('{"text": "a", "out": "b.mp4", "frames": 6}', "4n+1"),
    ],
)
def test_a_bad_line_of_a_batch_stops_before_the_first_video(inputs, capsys, line, says):
    (inputs / "many.jsonl").write_text('{"text": "a", "out": "a.mp4"}\n' + line + "\n")
    assert says in refused(capsys, "generate", "--batch", "many.jsonl")
    assert not (inputs / "a.mp4").exists()


@pytest.mark.slow
def test_a_batch_makes_every_video_as_it_would_be_made_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [{"text": "one", "out": "1.mp4"}, {"text": "one", "out": "2.mp4", "seed": 3}]
    (tmp_path / "many.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["generate", "--batch", "many.jsonl", "--json", *SMALL]) == 0
    videos = json.loads(capsys.readouterr().out.splitlines()[-1])["videos"]
    assert [video["seed"] for video in videos] == [0, 3]
    assert main(["generate", "--text", "one", "--out", "alone.mp4", *SMALL]) == 0
    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    assert (tmp_path / "alone.png").read_bytes() != (tmp_path / "2.png").read_bytes()


@pytest.mark.slow
def test_the_built_in_examples_become_a_video(tmp_path, capsys):
    out = tmp_path / "new" / "demo.mp4"
    assert main(["generate", "--out", str(out), "--json", *SMALL]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    facts = probe_video(out)
    assert (facts.frames, facts.height, facts.width, float(facts.fps)) == (5, 32, 32, 25.0)
    assert facts.audio_seconds == pytest.approx(5 / 25, abs=0.03)
    assert result["frames"] == 5 and result["video"] == str(out)
    assert set(result["phases"]) == {"encode", "denoise", "decode"}
    assert "trained on drawn puppets only" in printed and "UNTRAINED" not in printed
    assert np.asarray(Image.open(out.with_suffix(".png"))).std() > 0
    assert sorted(p.name for p in out.parent.iterdir()) == ["demo.mp4", "demo.png"]


def test_untrained_weights_are_called_untrained(tmp_path, capsys):
    out = str(tmp_path / "noise.mp4")
    assert main(["generate", "--model", "mini-untrained", "--text", "x", "--out", out, *SMALL]) == 0
    assert "UNTRAINED" in capsys.readouterr().out


def test_every_precision_can_be_asked_for():
    """Named apart from the networks, which would make `--help` wait for JAX."""
    known = ("auto", *building.PRECISIONS)
    assert cli_generate.PRECISIONS == cli_serve.PRECISIONS == known
