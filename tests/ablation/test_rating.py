"""Answers of judges become shares as in OmniHuman-1's Table 3, and nobody learns from the page who is who."""

import json
import random
import re

import numpy as np
import pytest

from omnihuman_jax.ablation import jobs, rating, rating_page
from omnihuman_jax.errors import InputError
from tests.ablation import worlds

POINTS = ("audio-10", "base", "audio-100")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A study with two rated clips, three levels: six pairs. Its folder and the key."""
    folder = tmp_path_factory.mktemp("asked")
    study = worlds.study(worlds.puppets(folder))
    shades = {"audio-10": 40, "base": 120, "audio-100": 200, "seed-1": 250}
    grey = lambda label: np.full((64, 64, 3), shades[label], np.uint8)
    worlds.filmed(study, folder, grey)
    return study, folder, rating.new_key(study, folder, "salt")


def answered(key, rater, choose):
    """Answers of a judge who chooses by `choose(pair's levels by code, question)`."""
    answers = [
        {
            "pair": pair,
            "question": q,
            "chosen": choose(each["levels"], q),
            "left": min(each["levels"]),
        }
        for pair, each in key["pairs"].items()
        for q in rating.QUESTIONS
    ]
    return {"format": 1, "rater": rater, "answers": answers}


def test_all_levels_meet_and_a_seed_of_training_is_nobody_s_question(asked):
    _, _, key = asked
    assert len(key["pairs"]) == 6 and len(key["videos"]) == 6
    assert {video["point"] for video in key["videos"].values()} == set(POINTS)
    met = sorted(sorted(each["levels"].values()) for each in key["pairs"].values())
    assert met == sorted(2 * [["10 %", "50 %"], ["10 %", "100 %"], ["100 %", "50 %"]])


def test_shares_and_abstentions_add_up_to_100(asked):
    study, _, key = asked
    chance = random.Random(1)
    choose = lambda levels, q: chance.choice([*sorted(levels), None])
    table = rating.tally(study, key, [answered(key, f"r{n}", choose) for n in range(7)])
    assert table["raters"] == 7 and table["answers"] == 7 * 6 * 5
    rows = table["factors"]["audio"]
    assert [*rows] == ["10 %", "50 %", "100 %", rating.ABSTAINED]
    for q in rating.QUESTIONS:
        assert sum(row[q]["share"] for row in rows.values()) == pytest.approx(100)
        assert sum(row[q]["count"] for row in rows.values()) == 7 * 6
    assert sum(table["sides"].values()) + sum(r["count"] for r in rows["abstained"].values()) == 210


def test_who_always_wins_has_what_he_was_in(asked):
    """Of three levels each is in two of three pairs: who wins all of his has two thirds."""
    study, _, key = asked

    def half(levels, question):
        if question == "overall":
            return None
        return next((code for code, level in levels.items() if level == "50 %"), min(levels))

    rows = rating.tally(study, key, [answered(key, "r", half)])["factors"]["audio"]
    assert rows["50 %"]["lip-sync"] == {"count": 4, "share": pytest.approx(200 / 3)}
    assert rows["abstained"]["overall"]["share"] == 100 and rows["50 %"]["overall"]["count"] == 0
    assert "66.67 (4)" in rating.markdown(rating.tally(study, key, [answered(key, "r", half)]))


def test_a_judge_who_saves_twice_counts_once(asked):
    study, _, key = asked
    first = answered(key, "r", lambda levels, q: None)
    later = answered(key, "r", lambda levels, q: min(levels))
    table = rating.tally(study, key, [first, later])
    assert table["raters"] == 1 and table["answers"] == 30
    assert table["factors"]["audio"]["abstained"]["identity"]["count"] == 0


def test_answers_to_another_page_are_refused(asked, tmp_path):
    study, folder, key = asked
    with pytest.raises(InputError, match="not to this page"):
        other = rating.new_key(study, folder, "other salt")
        rating.tally(study, key, [answered(other, "r", lambda levels, q: None)])
    with pytest.raises(InputError, match="does not show it"):
        rating.tally(study, key, [answered(key, "r", lambda levels, q: "nobody")])
    for text, says in [
        ("[]", "no JSON object"),
        ("{", "no JSON"),
        ('{"format": 1}', "page for judges"),
    ]:
        (tmp_path / "answers.json").write_text(text)
        with pytest.raises(InputError, match=says):
            rating.read_answers(tmp_path / "answers.json")


def test_codes_stay_and_names_do_not_show(asked):
    study, folder, key = asked
    assert rating.new_key(study, folder, "salt") == key
    assert rating.new_key(study, folder)["salt"] != rating.new_key(study, folder)["salt"]
    page = rating_page.page(study, folder, key)
    for secret in (*POINTS, "10 %", "100 %", "salt", "seed-1", str(folder)):
        assert secret not in re.sub('"data:[^"]*"', "", page), secret
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert len(data["pairs"]) == 6 and all(
        v.startswith("data:video/mp4") for v in data["videos"].values()
    )
    assert {p["picture"] for p in data["pairs"]} == set(data["pictures"])


def test_only_what_is_there_is_asked_about(asked, tmp_path):
    study, _folder, _ = asked
    assert rating.new_key(study, tmp_path)["pairs"] == {}
    assert jobs.ids(study.videos[0]) is not None
