"""A plan of generation: its sums, what the compiler is asked, how bad input is refused."""

import json

import pytest

from omnihuman_jax.cli import main
from omnihuman_jax.models.manifest import SAMPLING
from omnihuman_jax.planning import compiler, generation, plan, prices
from omnihuman_jax.planning.chips import slice_of
from tests.planning.worlds import CONFIG, GIB, MINI, Compiler

PRICES = {"v6e": prices.Price({"on_demand": 3.0, "spot": 1.5}, "a test", "today")}


@pytest.fixture(autouse=True)
def uncached(monkeypatch):
    monkeypatch.setenv("OMNIHUMAN_CACHE", "off")


def planned(ask, slice_="v6e-8", videos=1, steps=None, **request):
    request = plan.Request(config=CONFIG, prices=PRICES, **request)
    return generation.Maker(request, videos, steps, ask)(slice_of(slice_))


def test_money_is_chips_times_hours_times_the_price():
    one = planned(Compiler(lambda job: 20 * GIB), credits=100.0)
    assert one.seconds == pytest.approx(one.evaluations * one.call_s)
    assert one.per_video["on_demand"] == pytest.approx(8 * one.seconds / 3600 * 3.0)
    assert one.reach["spot"] * one.per_video["spot"] == pytest.approx(100.0)


def test_videos_side_by_side_share_the_chips_and_the_cost():
    ask = Compiler(lambda job: 20 * GIB)
    four, one = planned(ask, videos=4), planned(ask)
    assert four.mesh == {"data": 4, "context": 2} and one.mesh == {"data": 1, "context": 8}
    assert [job.videos for job in ask.asked] == [4, 1]
    assert four.per_video["spot"] == pytest.approx(one.per_video["spot"] / 4)


def test_what_does_not_fit_has_a_number_and_no_time():
    one = planned(Compiler(lambda job: 40 * GIB))
    assert (one.fits, one.peak, one.call_s, one.seconds) == (False, 40 * GIB, None, None)


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, 100),  # one scale for text and audio: two passes a step
        ({"guidance": 5.0, "audio_guidance": 4.0}, 150),
        ({"guidance": 1.0, "audio_guidance": 1.0}, 50),
        ({"sampler": "consistency", "steps": 1, "guidance": 1.0, "audio_guidance": 1.0}, 1),
    ],
)
def test_evaluations_are_steps_by_guidance_passes(change, expected):
    assert generation.evaluations({**SAMPLING, **change}, None) == expected


@pytest.mark.parametrize(
    "words, says",
    [
        (["--generate", "--search"], "neither --search"),
        (["--videos", "2"], "of --generate"),
        (["--generate", "--videos", "0"], "at least 1"),
        (["--generate", "--steps", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line(capsys, words, says):
    assert main(["plan", CONFIG, "--slice", "v6e-8", *words]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_the_command_prints_one_object_last(monkeypatch, capsys):
    monkeypatch.setattr(compiler, "ask", Compiler(lambda job: 20 * GIB))
    words = ["plan", CONFIG, "--slice", "v6e-8", "--generate", "--credits", "50"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["slices"]["v6e-8"]
    assert told["fits"] and told["seconds"] > 0 and told["reach"]["spot"] > 0
    assert main(words) == 0
    assert "encoding and decoding not counted" in capsys.readouterr().out


@pytest.mark.slow
def test_the_compiler_is_really_asked():
    request = plan.Request(config=MINI)
    one = generation.Maker(request, 2)(slice_of("v6e-4"))
    assert one.fits and 0 < one.peak < one.room and one.call_s > 0
