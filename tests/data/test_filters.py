"""Principle 1: a weak clip still teaches weak conditions; and what is not scored proves nothing."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from omnihuman_jax.data import filters
from omnihuman_jax.data.filters import Between, Thresholds, judge
from omnihuman_jax.data.preprocess import Settings
from omnihuman_jax.data.scorers import QAlign
from omnihuman_jax.errors import InputError
from omnihuman_jax.settings import override

ALL = {"has_text": True, "has_pose": True, "has_sound": True}
GOOD = {
    "brightness": 120.0,
    "sharpness": 200.0,
    "clarity": 0.1,
    "motion": 2.0,
    "frozen": 0.0,
    "text_area": 0.0,
    "face_visible": 1.0,
    "face_size": 0.3,
    "face_sharpness": 0.5,
    "hand_sharpness": 0.5,
    "person_visible": 1.0,
    "pose_visible": 1.0,
    "speech_ratio": 0.8,
    "lip_correlation": 0.7,
}


def taught(**changes):
    scores = {name: value for name, value in (GOOD | changes).items() if value is not None}
    verdict = judge(scores, Thresholds(), **ALL)
    assert verdict.reason is None
    assert verdict.teaches | verdict.untaught.keys() == {"text", "reference", "audio", "pose"}
    return verdict.teaches


@pytest.mark.parametrize(
    "change, lost",
    [
        ({}, set()),
        ({"speech_ratio": 0.1}, {"audio"}),
        ({"speech_ratio": None}, {"audio"}),
        ({"lip_correlation": 0.1}, {"audio"}),
        ({"lip_correlation": None}, {"audio"}),
        ({"lip_lag": -3.0}, set()),
        ({"lip_lag": 4.0}, {"audio"}),
        ({"sync_c": 5.0, "lip_correlation": None}, set()),
        ({"sync_c": 5.0, "lip_correlation": 0.0}, set()),  # SyncNet is asked where it ran
        ({"sync_c": 2.9}, {"audio"}),
        ({"sync_c": 5.0, "offset": -7.0}, {"audio"}),
        ({"sync_c": 5.0, "offset": 6.0}, set()),
        ({"people": 2.0}, {"audio"}),
        ({"face_visible": 0.5}, {"audio"}),
        ({"face_size": 0.02}, {"audio"}),
        ({"pose_visible": 0.2}, {"pose"}),
        ({"pose_visible": None}, {"pose"}),
        ({"hand_sharpness": 0.01}, {"pose"}),
        ({"hand_sharpness": None}, set()),  # no hand is seen
        ({"person_visible": 0.4}, {"reference"}),
        ({"face_visible": 0.0}, {"audio"}),
        ({"lip_correlation": float("nan")}, {"audio"}),
    ],
)
def test_each_criterion_takes_its_condition_and_no_weaker_one(change, lost):
    assert taught(**change) == {"text", "reference", "audio", "pose"} - lost


@pytest.mark.parametrize(
    "scores, reason",
    [
        ({"brightness": 9.0}, "brightness"),
        ({"brightness": 211.0}, "brightness"),
        ({"text_area": 0.021}, "text_area"),
        ({"motion": 0.0}, "motion"),
        ({"frozen": 1.0}, "frozen"),
        ({"face_sharpness": 0.05}, "face_sharpness"),
        ({"aesthetic": 3.9}, "aesthetic"),
        ({"hyperiqa": 39.0}, "hyperiqa"),
        ({"sharpness": float("nan")}, "sharpness"),
    ],
)
def test_bounds_reject_with_the_number(scores, reason):
    verdict = judge(GOOD | scores, Thresholds(), **ALL)
    assert verdict.reason == reason
    assert reason in verdict.detail
    assert verdict.teaches == frozenset()


def test_the_published_ends_are_kept():
    for change in ({"brightness": 10.0}, {"brightness": 210.0}, {"text_area": 0.02}):
        assert judge(GOOD | change, Thresholds(), **ALL).reason is None


def test_what_teaches_nothing_is_rejected_and_a_caption_alone_is_kept():
    nobody = {"brightness": 120.0, "face_visible": 0.0, "pose_visible": 0.0, "person_visible": 0.0}
    without = dict(has_text=False, has_pose=True, has_sound=True)
    verdict = judge(nobody, Thresholds(), **without)
    assert verdict.reason == "nothing"
    assert "no caption" in verdict.detail
    assert judge(nobody, Thresholds(), **(without | {"has_text": True})).teaches == {"text"}
    assert judge({}, Thresholds(), **without).reason == "nothing"
    for name in ("has_pose", "has_sound"):
        assert judge(GOOD, Thresholds(), **(ALL | {name: False})).reason is None


def test_settings_are_changed_by_name():
    changed = override(
        Settings(),
        [
            "fps=24",
            "lengths=81,49",
            "hdr=reject",
            "thresholds.brightness.least=20",
            "thresholds.text_area.most=none",
            "thresholds.audio.sync_c=4.5",
            "trim=2",
        ],
    )
    assert (changed.fps, changed.lengths, changed.hdr, changed.trim) == (24, (81, 49), "reject", 2)
    assert changed.thresholds.brightness == Between(least=20, most=210)
    assert changed.thresholds.text_area == Between()
    assert changed.thresholds.audio.sync_c == 4.5
    assert Settings().thresholds == Thresholds()
    assert dataclasses.replace(changed.thresholds.audio, sync_c=3.0) == Thresholds().audio


@pytest.mark.parametrize(
    "change, said",
    [
        ("thresholds.audoi.sync_c=3", "'audoi' in brightness"),
        ("thresholds.audio.sync=3", "sync_c"),
        ("thresholds.audio=3", r"thresholds\.audio\.speech"),
        ("fps.x=3", "single value"),
        ("fps", "name=value"),
        ("fps=fast", "'fast' is no such value"),
        ("fps=nan", "no such value"),
        ("fps=none", "no such value"),
        ("lengths=49,x", "no such value"),
        ("lengths=50", "4n.1 frames"),
        ("lengths=", "one clip length"),
        ("areas=100", "at least 256"),
        ("hdr=yes", "map or reject"),
        ("max_upscale=0", "max_upscale"),
    ],
)
def test_a_wrong_setting_says_what_exists(change, said):
    with pytest.raises(InputError, match=said):
        override(Settings(), [change])


def test_limits_name_every_threshold():
    limits = Thresholds().limits()
    assert limits["brightness"] == (10, 210)
    assert limits["text_area"] == (None, 0.02)
    assert set(Thresholds().bounds()) < set(limits)
    assert set(GOOD) - set(limits) == set()


class FakeOneAlign:
    """Answers with the mean of the picture, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, pictures, task_, input_):
        self.asked.append((task_, input_, len(pictures)))
        return [np.asarray(pictures[0]).mean() / 51 * (1 if task_ == "quality" else 0.5)]


def test_q_align_asks_about_one_frame_a_second(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    model = FakeOneAlign()
    frames = np.zeros((49, 8, 8, 3), np.uint8)
    frames[0], frames[25] = 102, 204
    scores = QAlign(str(tmp_path), load=lambda _: model)(frames, None, 25.0)
    assert scores == pytest.approx({"iqa": 3.0, "ase": 1.5})
    assert set(model.asked) == {("quality", "image", 1), ("aesthetics", "image", 1)}
    assert set(scores) <= set(filters.Thresholds().bounds())


def test_q_align_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="q-future/one-align"):
        QAlign(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    if importlib.util.find_spec("torch") is None:
        with pytest.raises(InputError, match="pip install torch"):
            QAlign(str(tmp_path))
