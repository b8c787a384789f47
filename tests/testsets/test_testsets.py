"""Test sets: cut where the publisher says, drawn by a rule, read back whole, without TensorFlow."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from omnihuman_jax import skeleton
from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from omnihuman_jax.testsets import Settings, build, celebv_hq, open_testset, ravdess
from omnihuman_jax.testsets.id_list import drawn, read_ids
from tests.testsets import copies
from tests.testsets.copies import BLUE, RATE, RED


def made(name, source, out, **settings):
    folder, _ = build(Settings(name=name, source=str(source), out=str(out), **settings))
    return open_testset(folder)


def examples(testset):
    """Everything in the data set, byte for byte, as anybody reads it."""
    source = tfds.builder_from_directory(testset.folder).as_data_source(split="test")
    return [{name: np.asarray(value).tolist() for name, value in each.items()} for each in source]


def pitch(sound):
    """Hertz of the beginning of a piece, from where it crosses zero."""
    crossings = np.flatnonzero((sound[:-1] < 0) & (sound[1:] >= 0))[:20]
    return RATE * (len(crossings) - 1) / (crossings[-1] - crossings[0])


@pytest.fixture(scope="module")
def celebrities(tmp_path_factory):
    """A raw video of YouTube with a red square in the blue box of a clip, and a clip that was cut already."""
    root = tmp_path_factory.mktemp("celebv")
    box = (0.27, 0.73, 0.27, 0.73)
    copies.celebv_info(
        root,
        {
            "whole_clip1_0": copies.celebv_entry("whole_clip1", 50.0, 52.0),
            "raw_video_1_0": copies.celebv_entry("raw_video_1", 1.0, 1.8, box),
            "raw_video_1_1": copies.celebv_entry("raw_video_1", 0.4, 4.0, (0, 1, 0, 1)),
            "vanished_01_0": copies.celebv_entry("vanished_01", 0.0, 2.0),
        },
    )
    pixels = copies.numbered(50, 80, 160)
    # By the publisher's rule the box is, with its margin, 20…60 of 80 rows and 40…120 of 160 columns; the
    # square of 40 in its middle has columns 60…100.
    pixels[:, 20:60, 60:100] = BLUE
    pixels[:, 24:56, 64:96] = RED
    copies.write(root / "downloaded_celebvhq/raw/raw_video_1.mp4", pixels=pixels)
    copies.write(root / "downloaded_celebvhq/processed/whole_clip1_0.mp4", 40, (64, 64))
    return root


def test_a_raw_video_is_cut_and_cropped_as_the_publisher_says(celebrities, tmp_path):
    assert celebv_hq.square(dict(top=0.27, bottom=0.73, left=0.27, right=0.73), 80, 160) == (
        20, 60, 40, 40,
    )  # fmt: skip
    testset = made("celebv_hq", celebrities, tmp_path)
    clips = {clip.id: clip for clip in testset}
    clip = clips["raw_video_1_0"]
    assert (clip.frames, clip.fps, clip.height, clip.width) == (20, 25.0, 40, 40)
    picture = clip.reference.astype(int)
    for place, colour in (((1, 1), BLUE), ((38, 38), BLUE), ((20, 20), RED), ((7, 7), RED)):
        assert np.abs(picture[place] - colour).max() < 60, place
    assert np.abs(clip.video()[0].astype(int) - picture).mean() < 8
    assert pitch(clip.sound) == pytest.approx(300 + 2 * 150 * 1.0, rel=0.05)
    assert clip.attributes["appearance"] == ["young"]
    assert clip.attributes["action"] == ["talk"]
    assert clip.attributes["ytb_id"] == "raw_video_1"
    assert testset.ids.missing == ("vanished_01_0",)
    assert testset.ids.passed_over.keys() == {"raw_video_1_1"}
    assert "lasts 2.00 s, the clip goes to 4.00 s" in testset.ids.passed_over["raw_video_1_1"]


def test_a_clip_that_was_cut_already_is_left_as_it_is(celebrities, tmp_path):
    clips = {clip.id: clip for clip in made("celebv_hq", celebrities, tmp_path)}
    clip = clips["whole_clip1_0"]
    assert (clip.frames, clip.height, clip.width) == (40, 64, 64)
    assert copies.numbers(clip.video()) == [*range(40)]


@pytest.mark.parametrize("fps, every", [(25, 1), (12.5, 2)])
def test_times_and_sound_are_cut_together(tmp_path, fps, every):
    """Stripes and pitch say where a piece is from."""
    copies.write(tmp_path / "in/a.mp4", 50)
    lines = [
        {"video": "a.mp4", "id": "x", "start": 0.4},
        {"video": "a.mp4", "id": "short", "start": 0.4, "end": 1.2},
    ]
    copies.manifest(tmp_path / "in", lines)
    testset = made("half_body", tmp_path / "in", tmp_path / "out", fps=fps, seconds=1.36)
    assert {clip.id: clip.frames for clip in testset}.get("short") == (20 if fps == 25 else None)
    assert testset.ids.passed_over.get("short", "20 frames").endswith("fewer than 16") == (fps < 25)
    clip = testset[testset.ids.ids.index("x")]
    frames = int(1.36 * fps)
    assert copies.numbers(clip.video()) == [10 + every * k for k in range(frames)]
    assert copies.numbers(clip.reference[None]) == [10]
    assert len(clip.sound) == round(frames / fps * RATE)
    assert pitch(clip.sound) == pytest.approx(300 + 2 * 150 * 0.4, rel=0.05)
    assert pitch(clip.sound[RATE // 2 :]) == pytest.approx(300 + 2 * 150 * 0.9, rel=0.05)


def test_keypoints_stay_on_what_they_point_at(tmp_path):
    """Fitted to another shape, the point is still in the middle of the red square."""
    pixels = np.full((30, 64, 96, 3), 90, np.uint8)
    points = np.zeros((30, 17, 3))
    for k in range(30):  # even steps, as colour is stored for pairs of pixels
        pixels[k, 24:40, 20 + 2 * k : 36 + 2 * k] = RED
        points[k, 0] = ((28 + 2 * k) / 96, 32 / 64, 0.9)
    points[:, 1] = (3.0 / 96, 0.5, 0.8)  # left of what is shown: x = -0.32
    (tmp_path / "in").mkdir()
    (tmp_path / "in/pose.json").write_text(json.dumps({"fps": 25, "keypoints": points.tolist()}))
    copies.write(tmp_path / "in/a.mp4", pixels=pixels)
    line = {"video": "a.mp4", "id": "x", "start": 0.2, "pose": "pose.json", "hat": "green"}
    copies.manifest(tmp_path / "in", [line])
    manifest = tmp_path / "in/manifest.jsonl"
    clip = made("half_body", manifest, tmp_path / "out", size="96x96", seconds=0.72)[0]
    assert (clip.height, clip.width, clip.frames) == (96, 96, 18)
    assert clip.pose.shape == (18, skeleton.JOINTS, 3)
    for frame, pose in zip(clip.video().astype(int), clip.pose, strict=True):
        red = np.argwhere(frame[..., 0] - frame[..., 2] > 80).mean(axis=0)
        assert pose[0, 1::-1] * 96 == pytest.approx(red + 0.5, abs=1.5)  # a pixel of the source
    assert clip.pose[0, 0, 2] == pytest.approx(0.9)
    assert clip.pose[0, 1] == pytest.approx(((3 - 16) / 64, 0.5, 0.8))
    assert not clip.pose[:, 17:].any()
    assert clip.attributes == {"hat": "green"}


def test_ravdess_is_known_by_its_names(tmp_path):
    names = ravdess.published()
    assert len(names) == len(set(names)) == 1440 + 1012
    assert sum(name.startswith("01-01") for name in names) == 1440
    loud = "01-02-05-02-01-02-12"
    copies.ravdess_copy(tmp_path / "in", [loud], "Video_Song_Actor_{0}/Actor_{0}")
    copies.ravdess_copy(tmp_path / "in", ["02-01-01-01-01-01-01"])  # without sound, not asked for
    testset = made("ravdess", tmp_path / "in", tmp_path / "out")
    assert [clip.id for clip in testset] == [loud]
    assert testset[0].attributes == {
        "vocal": "song", "emotion": "angry", "intensity": "strong", "repetition": 2, "actor": 12,
        "statement": "Kids are talking by the door.", "sex": "female",
    }  # fmt: skip
    assert testset[0].identity == "ravdess-12"
    assert testset[0].text == "A woman sings to the camera, very angry."
    assert "CC BY-NC-SA" in testset.ids.licence


def test_puppets_bring_their_truth_and_leave_their_faults(tmp_path):
    folder = tmp_path / "in/portraits"
    for name, fault in (("a", None), ("b", "dubbed"), ("c", None)):
        copies.write(folder / f"{name}.mp4", 30, silent=name == "c")
        truth = {"fps": 25, "mouth": [k / 30 for k in range(30)], "rounding": [0.5] * 30,
                 "identity": f"puppet-{name}", "framing": "portrait", "fault": fault}  # fmt: skip
        pose = {"fps": 25, "keypoints": [[[k / 30, 0.5, 1.0]] * 133 for k in range(30)]}
        sidecar = {"caption": f"Puppet {name}", "language": "en", "truth": truth, "pose": pose}
        (folder / f"{name}.json").write_text(json.dumps(sidecar))
    copies.write(tmp_path / "in/unknown.mp4", 30)
    clips = {
        clip.id: clip for clip in made("puppets", tmp_path / "in", tmp_path / "out", seconds=1)
    }
    assert clips.keys() == {"portraits/a", "portraits/c"}
    clip = clips["portraits/a"]
    assert (clip.identity, clip.text) == ("puppet-a", "Puppet a")
    assert clip.attributes["mouth"] == pytest.approx([k / 30 for k in range(25)])
    assert clip.attributes["framing"] == "portrait"
    assert clip.pose[:, 0, 0] == pytest.approx([k / 30 for k in range(25)])
    assert clips["portraits/c"].sound is None


def test_the_draw_depends_on_seed_and_ids_alone(tmp_path):
    ids = [f"clip-{k}" for k in range(300)]
    assert drawn(ids, 3) == drawn(reversed(ids), 3) != drawn(ids, 4)
    assert sorted(drawn(ids, 3)) == sorted(ids)
    fewer = set(ids) - {"clip-7", "clip-9"}
    assert drawn(fewer, 3) == [name for name in drawn(ids, 3) if name in fewer]
    assert drawn(["a", "b", "c", "d", "e"], 0) == ["d", "a", "c", "b", "e"]  # on every machine


def test_the_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    names = copies.ravdess_copy(tmp_path / "in", copies.spoken(5))
    first = made("ravdess", tmp_path / "in", tmp_path / "a", count=3)
    walk = os.walk
    monkeypatch.setattr(
        os,
        "walk",
        lambda *a, **k: ((f, d, files[::-1]) for f, d, files in reversed([*walk(*a, **k)])),
    )
    again = made("ravdess", tmp_path / "in", tmp_path / "b", count=3)
    here = [name for name in drawn(ravdess.published(), 0) if name in names][:3]
    assert [clip.id for clip in first] == [clip.id for clip in again] == here
    assert examples(first) == examples(again)


def test_an_id_list_builds_the_identical_set(tmp_path):
    copies.ravdess_copy(tmp_path / "in", copies.spoken(5))
    first = made(
        "ravdess", tmp_path / "in", tmp_path / "a", count=3, seed=5, seconds=0.8, size="48x48"
    )
    ids = str(first.folder / "ids.json")
    again = made("ravdess", tmp_path / "in", tmp_path / "b", ids=ids)
    assert examples(first) == examples(again)
    assert first.ids.ids == again.ids.ids
    smaller = made("ravdess", tmp_path / "in", tmp_path / "c", ids=ids, size="32x32")
    assert [clip.height for clip in smaller] == [32] * 3
    once_more = made("ravdess", tmp_path / "in", tmp_path / "d", ids=str(again.folder / "ids.json"))
    assert once_more.ids == again.ids

    victim = next((tmp_path / "in").rglob(f"{first.ids.ids[1]}.mp4"))
    whole = victim.read_bytes()
    victim.write_bytes(whole + b"\0\0\0\x08free")
    with pytest.raises(InputError, match=rf"{first.ids.ids[1]}.*--allow-changed"):
        made("ravdess", tmp_path / "in", tmp_path / "e", ids=ids)
    changed = made("ravdess", tmp_path / "in", tmp_path / "e", ids=ids, allow_changed=True)
    assert changed.ids.changed == (first.ids.ids[1],)
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"Clip {first.ids.ids[1]} .* cannot be used"):
        made("ravdess", tmp_path / "in", tmp_path / "f", ids=ids)
    victim.unlink()
    with pytest.raises(InputError, match=rf"1 of 3 clips .* missing: {first.ids.ids[1]}"):
        made("ravdess", tmp_path / "in", tmp_path / "f", ids=ids)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "c", "d", "e", "in"]
    fewer = made("ravdess", tmp_path / "in", tmp_path / "f", ids=ids, allow_missing=True)
    assert fewer.ids.ids == (first.ids.ids[0], first.ids.ids[2])
    assert fewer.ids.missing == (first.ids.ids[1],)


def test_an_interrupted_build_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    copies.ravdess_copy(tmp_path / "in", copies.spoken(3))
    first = made("ravdess", tmp_path / "in", tmp_path / "out", count=2)
    before = examples(first)
    from omnihuman_jax.testsets import building

    cut = building.cut

    def interrupted(clip, *args, **kwargs):
        if clip.id == first.ids.ids[1]:
            raise KeyboardInterrupt
        return cut(clip, *args, **kwargs)

    monkeypatch.setattr(building, "cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made("ravdess", tmp_path / "in", tmp_path / "out", overwrite=True)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["ravdess"]
    assert examples(open_testset(tmp_path / "out")) == before


def test_a_damaged_set_is_never_read_as_if_it_were_whole(tmp_path):
    copies.ravdess_copy(tmp_path / "in", copies.spoken(2))
    testset = made("ravdess", tmp_path / "in", tmp_path / "out")
    (shard,) = testset.folder.glob("*.array_record*")
    whole = shard.read_bytes()
    middle = len(testset[0].mp4) // 2
    shard.write_bytes(whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :])
    with pytest.raises(InputError):
        [clip.video() for clip in open_testset(testset.folder)]
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError):
        [clip.video() for clip in open_testset(testset.folder)]
    shard.unlink()
    with pytest.raises(InputError):
        [clip.video() for clip in open_testset(testset.folder)]
    shard.write_bytes(whole)
    ids = testset.folder / "ids.json"
    ids.write_text(ids.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(InputError, match=r"schema 2.*update"):
        open_testset(testset.folder)


def test_nothing_of_tensorflow_is_imported(tmp_path):
    """Importing the command line does not even bring TensorFlow Datasets, which takes a second."""
    copies.ravdess_copy(tmp_path / "in", copies.spoken(1))
    arguments = ["testset", "ravdess", str(tmp_path / "out"), "--source", str(tmp_path / "in")]
    script = f"""
import sys
import omnihuman_jax.cli, omnihuman_jax.testsets
assert "tensorflow_datasets" not in sys.modules
assert "jax" not in sys.modules, "jax is not needed"
assert omnihuman_jax.cli.main({arguments}) == 0
clip = omnihuman_jax.testsets.open_testset({str(tmp_path / "out")!r})[0]
assert clip.video().shape[0] == clip.frames == 25
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def refused(capsys, *arguments):
    """Run; the one line on stderr."""
    assert main(["testset", *map(str, arguments), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err, err
    return err


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    out, source = tmp_path / "out", tmp_path / "in"
    source.mkdir()
    for name, says in (
        ("celebv_hq", "no celebvhq_info.json"),
        ("ravdess", "no recording of RAVDESS"),
        ("half_body", "no manifest"),
        ("puppets", "omnihuman puppets"),
    ):
        assert says in refused(capsys, name, out, "--source", source)
        assert "no folder" in refused(capsys, name, out, "--source", tmp_path / "nowhere")
    (source / "01-01-01-01-01-01-01.mp4").write_bytes(b"no video")
    assert "01-01-01-01-01-01-01 (" in refused(capsys, "ravdess", out, "--source", source)
    for wrong, says in (
        (["--count", "0"], "--count 0"),
        (["--fps", "0"], "--fps 0"),
        (["--seconds", "-1"], "--seconds -1"),
        (["--size", "64"], "HEIGHTxWIDTH"),
        (["--size", "33x64"], "even"),
        (["--ids", "missing.json"], "no id list"),
    ):
        assert says in refused(capsys, "ravdess", out, "--source", source, *wrong)
    assert "disks only" in refused(capsys, "ravdess", "gs://b/out", "--source", source)
    for content, says in (
        ("{", "no JSON"),
        ("[]", "another layout"),
        ('{"clips": {}}', "'meta_info'"),
        (json.dumps({"meta_info": {}, "clips": {"a": {"ytb_id": "b"}}}), "'duration'"),
    ):
        (source / "celebvhq_info.json").write_text(content)
        assert says in refused(capsys, "celebv_hq", out, "--source", source)
    for line, says in (
        ("{", "line 1: no JSON"),
        ('{"id": "a"}', "at least a video and an id"),
        ('{"id": "a", "video": "a.mp4", "start": "0"}', "start is '0'"),
        ('{"id": "a", "video": "a.mp4", "start": 3, "end": 2}', "from 3.0 to 2"),
        ('{"id": "a", "video": "a.mp4"}\n{"id": "a", "video": "b.mp4"}', "line 2: the id 'a'"),
        ('{"id": "a", "video": "a.mp4"}', "videos are not there"),
    ):
        (source / "manifest.jsonl").write_text(line)
        assert says in refused(capsys, "half_body", out, "--source", source)
    assert not out.exists() or not [*out.iterdir()]


def test_the_command_says_what_it_did(tmp_path, capsys):
    names = copies.ravdess_copy(tmp_path / "in", copies.spoken(3))
    (tmp_path / f"in/Actor_{names[0][-2:]}/{names[0]}.mp4").write_bytes(b"no video")
    arguments = ["testset", "ravdess", str(tmp_path / "out"), "--source", str(tmp_path / "in")]
    assert main([*arguments, "--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out.splitlines()[-1])
    assert said["clips"] == 2 and sorted(said["ids"]) == sorted(names[1:])
    assert names[0] in said["passed_over"]
    assert "CC BY-NC-SA 4.0" in out and "2 of the 100" in out and "Passed over" in err
    stored = read_ids(tmp_path / "out/ravdess/1.0.0/ids.json")
    assert (stored.count, stored.seed, stored.seconds, stored.fps) == (100, 0, 5, 25)
    assert "there is a set" in refused(capsys, *arguments[1:]).lower()
    loaded = tfds.builder("ravdess", data_dir=str(tmp_path / "out"))
    assert len(loaded.as_data_source(split="test")) == 2
