"""Each metric on what can be worked out: shifts of a sound, hands that move, networks that are not there."""

import json
from dataclasses import replace

import numpy as np
import pytest

from omnihuman_jax import skeleton
from omnihuman_jax.evaluation import cases, networks, of_people, of_pictures, registry
from omnihuman_jax.evaluation.metric import NotComputedError
from omnihuman_jax.evaluation.networks import Kind, Networks
from omnihuman_jax.evaluation.run import Settings, evaluate
from omnihuman_jax.metrics import random_features
from tests.evaluation.conftest import film, noisy

PLAIN = ("ssim", "psnr", "flicker")
SAMPLES = 640  # of a frame's sound


def silent(line):
    pass


def found(videos, testset, *names, **more):
    settings = Settings(videos=str(videos), testset=str(testset), metrics=names, **more)
    return evaluate(settings, silent)


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_a_shifted_sound_is_found_at_exactly_its_shift(testset, tmp_path, late):
    """By the lip reader made for puppets; the mouth is late where the sound was drawn forward."""

    def moved(sound, clip):
        shifted = np.roll(sound, -late * SAMPLES)
        shifted[len(shifted) - late * SAMPLES if late > 0 else 0 : -late * SAMPLES or None] = 0
        return shifted if late else sound

    made = found(film(tmp_path, testset, sound=moved), testset, "puppet_lag", "puppet_lips")
    assert set(made.values("puppet_lag").values()) == {late}
    assert made.metrics["puppet_lips"].value > 0.8  # which looks at the truth, not at the sound


def hands(amplitude, confidence=0.9, frames=20):
    """Both hands go left and right by that share of the frame's width."""
    pose = np.zeros((frames, skeleton.JOINTS, 3), np.float32)
    x = 0.5 + amplitude * np.where(np.arange(frames) % 2, 1, -1)
    for hand in of_people.HANDS:
        pose[:, hand] = np.stack([x, np.full(frames, 0.5), np.full(frames, confidence)], -1)[
            :, None
        ]
    return pose


def case_of(frames, **known):
    case = cases.Case("a", "a.mp4", cases.Known(fps=25.0, **known))
    case.frames = frames
    return case


FRAMES = np.zeros((20, 32, 64, 3), np.uint8)


def measure(name, network, **known):
    return registry.METRICS[name].measure(case_of(FRAMES, **known), network)


def test_hands_are_scored_by_confidence_and_by_how_far_they_move():
    seen = lambda frames: hands(0.1)
    assert measure("hkc", seen) == pytest.approx(0.9)
    # One side and the other of the middle by 0.1 widths: 0.1 widths, which are 0.2 heights, of 512.
    assert measure("hkv", seen) == pytest.approx(0.2 * 512, rel=1e-5)
    assert measure("hand_variance", lambda f, fps: hands(0.1)) == pytest.approx(102.4, rel=1e-5)
    half = hands(0.1)
    half[:, skeleton.LEFT_HAND] = 0
    assert measure("hand_presence", lambda f, fps: half) == pytest.approx(0.45)
    still, lively = (measure("hkv", lambda f, a=a: hands(a)) for a in (0.0, 0.2))
    assert still == 0 and lively == pytest.approx(2 * 102.4, rel=1e-5)
    with pytest.raises(NotComputedError, match="a hand in half of the frames"):
        measure("hkv", lambda f: hands(0.1, confidence=0.0))
    with pytest.raises(NotComputedError, match="a body"):
        measure("diversity", lambda f, fps: hands(0.1))


def test_a_person_is_like_the_reference_and_stays_so_or_not():
    def network(turned, seen=1.0):
        """Vectors that turn by so many degrees a frame; the reference is at 0."""

        def who(frames, fps):
            count = int(len(frames) * seen)
            angle = np.radians(turned) * np.arange(count)
            there = np.arange(len(frames)) < count
            return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32), there

        return who

    given = {"reference": FRAMES[0]}
    angles = np.radians(np.arange(20))
    assert measure("csim", network(1), **given) == pytest.approx(np.cos(angles).mean())
    expected = (np.cos(angles[1]) + np.cos(angles[1:]).mean()) / 2
    assert measure("identity_over_time", network(1), **given) == pytest.approx(expected)
    values = [
        measure(n, network(a), **given) for n in ("csim", "identity_over_time") for a in (0, 2, 4)
    ]
    assert values[:3] == sorted(values[:3], reverse=True) and values[0] == pytest.approx(1)
    assert values[3:] == sorted(values[3:], reverse=True) and values[3] == pytest.approx(1)
    with pytest.raises(NotComputedError, match="a face in half of the frames"):
        measure("csim", lambda f, fps: network(1, 1.0 if len(f) == 1 else 0.4)(f, fps), **given)
    with pytest.raises(NotComputedError, match="a face in the reference"):
        measure("csim", network(1, 0.0), **given)
    with pytest.raises(NotComputedError, match="a reference"):
        measure("csim", network(1))


def test_sync_needs_a_sound_and_a_face():
    sound = np.zeros(16_000, np.float32)
    for name, value in (("sync_c", 4.0), ("sync_d", 7.0)):
        case = case_of(FRAMES, sound=sound)
        case.sound = None
        network = lambda frames, heard, fps: {"sync_c": 4.0, "sync_d": 7.0, "offset": 0.0}
        assert registry.METRICS[name].measure(case, network) == value
    case._seen.clear()
    with pytest.raises(NotComputedError, match="a face"):
        registry.METRICS["sync_c"].measure(case, lambda *given: {})
    case.known = replace(case.known, sound=None)
    with pytest.raises(NotComputedError, match="with sound"):
        registry.METRICS["sync_c"].measure(case, lambda *given: {})


def test_a_metric_without_its_weights_says_what_it_needs_and_gives_no_number(testset, tmp_path):
    videos = film(tmp_path / "v", testset)
    made = found(videos, testset, "fid", "sync_c", "hkc", "iqa", "puppet_lips")
    for name in ("fid", "sync_c", "hkc", "iqa"):
        assert made.metrics[name].value is None
        assert f"give --weights with it, as {registry.METRICS[name].network}" in (
            made.metrics[name].estimate.why
        )
    content = json.loads((videos / "evaluation/summary.json").read_text())
    assert "2015 Inception" in content["metrics"]["fid"]["why"]
    (tmp_path / "w").mkdir()
    made = found(videos, testset, "fid", weights=str(tmp_path / "w"))
    assert made.metrics["fid"].estimate.why.endswith(f"give it in {tmp_path / 'w'}, as inception")


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Random features in place of the networks; a folder that has their weights."""
    some = lambda frames: random_features.features(frames)[:, ::16]
    load = lambda path: some
    monkeypatch.setitem(networks.KINDS, "inception", Kind(load, "a stand-in"))
    clips = lambda path: lambda x: np.stack([some(c).mean(0) for c in x])
    monkeypatch.setitem(networks.KINDS, "i3d", Kind(clips, "a stand-in"))
    weights = tmp_path / "weights"
    for name in ("inception", "i3d"):
        (weights / name).mkdir(parents=True)
        (weights / name / "w").write_text(name)
    return weights


@pytest.mark.slow
def test_sets_at_no_distance_from_themselves_go_away_with_noise_and_blur(
    testset, tmp_path, stand_in
):
    def blurred(times):
        def change(frames, clip):
            soft = frames.astype(np.float32)
            for _ in range(times):
                soft = (soft + np.roll(soft, 1, 1) + np.roll(soft, 1, 2)) / 3
            return np.uint8(soft)

        return change

    def values(name, change):
        videos = film(tmp_path / name, testset, change)
        made = found(videos, testset, "fid", "fvd_i3d", *PLAIN, weights=str(stand_in))
        return {n: f.value for n, f in made.metrics.items()} | {
            n + " samples": f.estimate.samples for n, f in made.metrics.items()
        }

    clean = values("clean", lambda frames, clip: frames)
    for kind, degrees in (("noise", [noisy(15), noisy(50)]), ("blur", [blurred(1), blurred(6)])):
        worse = [values(f"{kind}{k}", change) for k, change in enumerate(degrees)]
        for name in ("fid", "fvd_i3d"):
            assert clean[name] < worse[0][name] < worse[1][name], (kind, name)
        for name in PLAIN[: 2 if kind == "blur" else 3]:  # blur is steady
            assert clean[name] > worse[0][name] > worse[1][name], (kind, name)
    assert clean["fid samples"] == 4 * 30 and clean["fvd_i3d samples"] == 4


def test_other_weights_make_kept_results_stale(testset, tmp_path, stand_in):
    videos = film(tmp_path / "v", testset)
    found(videos, testset, "fid", weights=str(stand_in))
    row = next((videos / "evaluation/clips").glob("*.json"))
    before = json.loads(row.read_text())["keys"]["fid"]
    found(videos, testset, "fid", weights=str(stand_in))
    assert json.loads(row.read_text())["keys"]["fid"] == before
    (stand_in / "inception/w").write_text("other")
    networks._digest.cache_clear()
    found(videos, testset, "fid", weights=str(stand_in))
    assert json.loads(row.read_text())["keys"]["fid"] != before


def test_weights_are_found_as_folders_and_as_files(tmp_path):
    (tmp_path / "syncnet.pth").write_text("x")
    assert Networks(str(tmp_path)).path("syncnet").endswith("syncnet.pth")
    with pytest.raises(NotComputedError, match=r"give it in .*, as lpips"):
        Networks(str(tmp_path)).path("lpips")


def test_a_video_shorter_than_sixteen_frames_has_no_clip():
    assert of_pictures.clips(np.zeros((33, 4, 4, 3))).shape == (2, 16, 4, 4, 3)
    with pytest.raises(NotComputedError, match="16 frames"):
        of_pictures.clips(np.zeros((15, 4, 4, 3)))


def test_every_metric_has_a_definition_a_direction_and_a_network_that_is_known():
    for name, metric in registry.METRICS.items():
        assert metric.name == name and len(metric.definition) > 40
        assert metric.network is None or metric.network in networks.known()
    assert {"fid", "fvd_i3d", "fvd_resnet3d", "iqa", "ase", "sync_c", "hkc", "hkv"} <= set(
        registry.METRICS
    )
