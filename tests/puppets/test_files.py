"""Puppets as files: the same bytes however they are made, whole or not there, resumable."""

import json
import wave

import numpy as np
import pytest

from omnihuman_jax import storage
from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from omnihuman_jax.media import probe_video, read_audio, read_pose
from omnihuman_jax.puppets.files import write_clips
from omnihuman_jax.puppets.plan import make_plan
from omnihuman_jax.puppets.world import Settings, make_clip
from tests.cloud import cloud

__all__ = ["cloud"]  # a fixture

SMALL = Settings(seconds=1, height=64, width=64, voices="formant")


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_bytes_depend_on_nothing_but_settings_and_number(tmp_path):
    write_clips(str(tmp_path / "a"), SMALL, 3)
    write_clips(str(tmp_path / "b"), SMALL, 1, start=2)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert {name: a[name] for name in b} == b


@pytest.mark.slow
def test_processes_change_nothing(tmp_path):
    write_clips(str(tmp_path / "a"), SMALL, 3, processes=1)
    write_clips(str(tmp_path / "b"), SMALL, 3, processes=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_files_hold_the_clip(tmp_path):
    write_clips(str(tmp_path), SMALL, 1, processes=1)
    clip = make_clip(SMALL, 0)
    base = tmp_path / "puppet-00000"
    facts = probe_video(base.with_suffix(".mp4"))
    assert (facts.frames, facts.fps, facts.height, facts.width) == (25, 25, 64, 64)
    assert facts.audio_seconds == pytest.approx(1, abs=0.05)
    with wave.open(str(base.with_suffix(".wav"))) as file:
        sound = np.frombuffer(file.readframes(10**6), "<i2") / np.float32(32768)
    np.testing.assert_array_equal(sound, clip.sound)
    heard = read_audio(base.with_suffix(".mp4"))
    assert np.corrcoef(heard[: len(sound)], sound[: len(heard)])[0, 1] > 0.95
    sidecar = json.loads(base.with_suffix(".json").read_bytes())
    assert sidecar["truth"] == json.loads(json.dumps(clip.truth))
    (tmp_path / "pose.json").write_text(json.dumps(sidecar["pose"]))
    keypoints, fps = read_pose(tmp_path / "pose.json")
    assert fps == 25
    np.testing.assert_allclose(keypoints, clip.pose, atol=1e-4)


def test_an_interrupted_run_goes_on(tmp_path):
    """Done clips are left alone; a clip without its json is made again."""
    write_clips(str(tmp_path), SMALL, 2, processes=1)
    before = contents(tmp_path)
    (tmp_path / "puppet-00001.json").unlink()
    (tmp_path / "puppet-00001.mp4").write_bytes(b"half of it")
    done = (tmp_path / "puppet-00000.mp4").stat().st_mtime_ns
    result = write_clips(str(tmp_path), SMALL, 2, processes=1)
    assert (result["written"], result["there_before"]) == (1, 1)
    assert sum(result["faults"].values()) == 2
    assert contents(tmp_path) == before
    assert (tmp_path / "puppet-00000.mp4").stat().st_mtime_ns == done


def test_another_world_is_not_mixed_in(tmp_path):
    write_clips(str(tmp_path), SMALL, 1, processes=1)
    other = Settings(seconds=1, height=64, width=64, voices="formant", seed=5)
    with pytest.raises(InputError, match="with seed 0, not 5"):
        write_clips(str(tmp_path), other, 2, processes=1)
    (tmp_path / "puppet-00000.json").write_text("{}")
    with pytest.raises(InputError, match="not a puppet's json"):
        write_clips(str(tmp_path), SMALL, 1, processes=1)


def test_a_clip_without_a_track_has_neither_sound_nor_wav(tmp_path):
    number = next(n for n in range(64) if make_plan(0, n).faults == ("no_track",))
    write_clips(str(tmp_path), SMALL, 1, start=number, processes=1)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".mp4"]
    assert probe_video(next(tmp_path.glob("*.mp4"))).audio_seconds is None


@pytest.mark.slow
def test_the_cloud_gets_the_same_bytes(tmp_path, cloud):
    out = f"{cloud}/raw/puppets"
    write_clips(out, SMALL, 2, processes=2)
    write_clips(str(tmp_path), SMALL, 2, processes=1)
    assert {name: storage.read_bytes(f"{out}/{name}") for name in storage.files(out)} == contents(
        tmp_path
    )
    assert write_clips(out, SMALL, 2)["there_before"] == 2


@pytest.mark.parametrize(
    "wrong, reason",
    [
        (["--clips", "0"], "at least 1 clip"),
        (["--start", "-1"], "numbered from 0"),
        (["--processes", "0"], "At least 1 process"),
        (["--size", "256"], "HEIGHTxWIDTH"),
        (["--size", "255x256"], "height is even"),
        (["--seconds", "0"], "from 1 to 600"),
        (["--sheet", "a.jpg"], "end in .png"),
        (["--fps", "0"], "frames a second"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, wrong, reason):
    assert main(["puppets", str(tmp_path / "out"), "--quiet", *wrong]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and reason in err, err
    assert not (tmp_path / "out").exists()


def test_the_command_line_prints_what_it_made(tmp_path, capsys):
    small = ["--seconds", "1", "--size", "64x64", "--voices", "formant", "--processes", "1"]
    assert main(["puppets", str(tmp_path / "o"), "--clips", "2", *small, "--quiet", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["written"] == 2 and result["voices"] == ["formant"]


@pytest.mark.slow
def test_a_poster_is_drawn(tmp_path):
    from PIL import Image

    from omnihuman_jax.puppets.sheet import write_sheet

    write_sheet(tmp_path / "sheet.png", SMALL)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 1000 and len(picture.getcolors()) > 200
