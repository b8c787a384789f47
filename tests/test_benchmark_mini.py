"""benchmarks.mini in small: drawn frames in place of a model's score near the top in every part."""

import json

import numpy as np
import pytest

from benchmarks import mini
from omnihuman_jax.puppets.identity import make_identity


def test_what_is_scored_was_never_trained_on():
    numbers = mini.mixed(6)
    assert len(set(numbers)) == 6 and min(numbers) >= 50_000
    case = mini.case(numbers[0], 64, 25)
    assert case.who == make_identity(0, numbers[0])
    # The reference is of another moment than the clip.
    assert not case.start <= case.still < case.start + case.frames
    assert len(case.audio) == 16_000 and len(case.pose) == len(case.mouth) == 25


def test_captions_differ_in_one_word():
    base = mini._bases(1, 64)[0]
    for attribute, choices in mini.WORDS.items():
        said = [mini._reworded(base, attribute, word).text.split() for word in choices]
        assert len({tuple(words) for words in said}) == len(choices)
        for words, choice in zip(said, choices, strict=True):
            for part in choice.split():
                assert any(part in word for word in words)


@pytest.mark.slow
def test_drawn_frames_score_near_the_top(monkeypatch, capsys):
    monkeypatch.setattr(mini, "PEOPLE", 6)
    monkeypatch.setattr(mini, "FACES", 8)
    monkeypatch.setattr(mini, "SHORT", 9)
    few = {name: dict([*words.items()][:2]) for name, words in mini.WORDS.items() if name != "skin"}
    monkeypatch.setattr(mini, "WORDS", few)
    mini.main(["--model", "drawn", "--clips", "2", "--only", "lips", "text"])
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["lip_corr"] > 0.9 and abs(scores["lip_corr_shuffled"]) < 0.4
    assert scores["lip_lag_frames"] == 0 and scores["identity_top1"] == 1
    assert scores["text"]["clothes"]["agrees"] == scores["text"]["hair"]["agrees"] == 1
    assert scores["provenance"] == {"drawn": True}


@pytest.mark.slow
def test_an_untrained_model_scores_nothing_and_is_called_so(monkeypatch, capsys):
    monkeypatch.setattr(mini, "PEOPLE", 6)
    monkeypatch.setattr(mini, "LONG", 25)
    mini.main(["--model", "mini-untrained", "--clips", "2", "--steps", "2", "--only", "lips"])
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["untrained"] and np.abs(scores["lip_corr"]) < 0.5
