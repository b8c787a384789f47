"""What a model is asked for by a test set; and the way from a test set to a table, by the commands."""

import json

import numpy as np
import pytest

from omnihuman_jax.cli import main
from omnihuman_jax.evaluation.asking import wishes
from omnihuman_jax.models.mini import find
from omnihuman_jax.testsets import open_testset


def test_a_clip_is_asked_for_by_its_picture_its_sound_and_its_words(testset):
    model, clips = find("mini"), list(open_testset(testset))
    asked = list(wishes(str(testset), model, {"seed": 5, "steps": 3}))
    assert [each.file for each in asked] == [f"{clip.id}.mp4" for clip in clips]
    for number, (each, clip) in enumerate(zip(asked, clips, strict=True)):
        np.testing.assert_array_equal(each.wish.reference, clip.reference)
        np.testing.assert_array_equal(each.wish.audio, clip.sound)
        assert each.wish.text == clip.text and each.wish.steps == 3
        assert each.wish.seed == 5 + number and each.wish.pose is None
    some = list(wishes(str(testset), model, {"seed": 5}, ids=[clips[2].id]))
    assert [each.wish.seed for each in some] == [7]


def test_keypoints_come_along_where_the_pose_drives(testset):
    model, clip = find("mini"), open_testset(testset)[1]
    joints = model.config("dit").pose.joints
    common = {"drive": "audio+pose"}
    [asked] = wishes(str(testset), model, common, ids=[clip.id])
    np.testing.assert_allclose(asked.wish.pose, clip.pose[:, :joints], atol=1e-6)
    [slow] = wishes(str(testset), model, {**common, "fps": 12.5}, ids=[clip.id])
    assert len(slow.wish.pose) == len(clip.pose) / 2


@pytest.mark.parametrize(
    "given, says",
    [
        (["--text", "hello"], "leave --text out"),
        (["--out", "a.mp4"], "--out is a folder for the videos, got a.mp4"),
    ],
)
def test_what_does_not_go_with_a_test_set_is_refused(testset, capsys, given, says):
    command = ["generate", "--model", "mini-untrained", "--testset", str(testset), "--out", "x"]
    assert main([*command, *given]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_from_a_test_set_to_a_table(testset, tmp_path, capsys):
    for seed in (0, 50):
        videos = str(tmp_path / f"run{seed}")
        small = ["--model", "mini-untrained", "--size", "64x64", "--frames", "5", "--steps", "1"]
        command = ["generate", "--testset", str(testset), "--out", videos, "--seed", str(seed)]
        assert main([*command, *small, "--quiet"]) == 0
        command = ["evaluate", videos, "--testset", str(testset), "--quiet"]
        assert main([*command, "--metrics", "puppet_look,puppet_motion,puppet_frechet"]) == 0
    runs = [str(tmp_path / f"run{seed}/evaluation") for seed in (0, 50)]
    capsys.readouterr()
    assert main(["compare", *runs, "--out", str(tmp_path / "tables"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["runs"] == ["run0", "run50"] and told["clips"] == [4, 4]
    assert all(cell["value"] is not None for cells in told["cells"].values() for cell in cells)
    assert "| run50 | 4 |" in (tmp_path / "tables/table.md").read_text()
