"""A plan's sums, what is kept, and how bad input is refused; the compiler only pretends."""

import json
import math

import pytest

from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.planning import answers, compiler, plan, prices
from omnihuman_jax.planning.chips import slice_of
from omnihuman_jax.planning.compiler import Answer, Job
from tests.planning.worlds import CONFIG, GIB, MINI, Compiler

PRICES = {"v6e": prices.Price({"on_demand": 3.0, "spot": 1.5, "committed": 0.0}, "a test", "today")}


@pytest.fixture
def small():
    return Compiler(lambda job: 20 * GIB)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMNIHUMAN_CACHE", "on")
    return tmp_path


def planned(ask, *changes, slice_="v6e-256", **request):
    request = plan.Request(config=CONFIG, changes=changes, prices=PRICES, **request)
    return plan.Planner(request, ask)(slice_of(slice_))


def test_money_is_chips_times_hours_times_the_price(small):
    one = planned(small)
    hours = 1000 * one.step_s / 3600
    assert one.per_1000["on_demand"] == pytest.approx(256 * hours * 3.0)
    assert one.per_1000["spot"] == pytest.approx(one.per_1000["on_demand"] / 2)
    assert one.steps == 30_000
    assert one.whole["on_demand"] == pytest.approx(256 * one.hours * 3.0)


def test_credits_reach_as_far_as_they_pay(small):
    one = planned(small, credits=200_000.0)
    assert one.reach["on_demand"] * one.per_1000["on_demand"] == pytest.approx(200_000 * 1000)
    assert one.reach["spot"] == pytest.approx(2 * one.reach["on_demand"])
    assert math.isinf(one.reach["committed"])  # costs nothing


def test_a_tpu7x_chip_is_paid_for_once_for_both_of_its_devices():
    slice_ = slice_of("tpu7x-8")
    assert (slice_.devices, slice_.chips, slice_.hosts) == (8, 4, 1)
    price = prices.Price({"spot": 1.0}, "", "")
    assert prices.cost(price, slice_, 3600.0)["spot"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    "name, devices, hosts", [("v5p-128", 64, 16), ("v6e-16", 16, 2), ("v4-8", 4, 1)]
)
def test_slices_have_the_chips_and_hosts_of_the_documentation(name, devices, hosts):
    assert (slice_of(name).devices, slice_of(name).hosts) == (devices, hosts)


def test_earlier_stages_have_less_to_do(small):
    """All stages at the step time of the dearest would take longer."""
    one = planned(small)
    assert 0.9 * 30_000 * one.step_s < one.hours * 3600 < 30_000 * one.step_s


def test_what_does_not_fit_has_a_number_and_no_time():
    one = planned(Compiler(lambda job: 50 * GIB))
    assert not one.fits and one.peak == 50 * GIB and one.step_s is None
    assert "31.25G" in one.why


def test_a_search_returns_overrides_that_fit():
    def peak(job: Job) -> float:
        return (20 if "mesh.context=16" in job.changes else 60) * GIB

    one = planned(Compiler(peak), searching=True, tries=10)
    assert one.fits and one.mesh == {"data": 1, "fsdp": 16, "context": 16, "tensor": 1}
    assert "mesh.context=16" in one.overrides


def test_a_known_answer_asks_nobody(cached, small):
    first, second = planned(small), planned(small)
    assert len(small.asked) == 1
    assert (first.asked, second.asked, second.known) == (1, 0, 1)
    assert second.step_s == first.step_s and second.largest == first.largest
    planned(small, "update.accumulate=2", "mesh.fsdp=64", "mesh.context=4")
    assert len(small.asked) == 2


def test_a_spoilt_cache_is_asked_again(cached, small):
    planned(small)
    (file,) = (cached / "omnihuman_jax/plans").glob("*.json")
    file.write_text('{"fits": tr')
    planned(small)
    assert len(small.asked) == 2


def test_answers_survive_being_written(small):
    answer = small(Job(CONFIG, (), "v6e-256", (81, 720, 1280), "pose"))
    assert Answer.of(json.loads(json.dumps(answer.described()))) == answer


def test_the_usual_clip_is_the_models_own():
    sizes = [plan.Planner(plan.Request(config=name)).grid for name in (CONFIG, MINI)]
    assert sizes == [Grid(81, 720, 1280), Grid(49, 64, 64)]


def test_the_shipped_prices_are_whole():
    found = prices.load(None, CONFIG)
    assert set(found) == {"v4", "v5e", "v5p", "v6e", "tpu7x"}
    assert all(price.source and price.date and price.ways for price in found.values())


@pytest.mark.parametrize(
    "text, message",
    [
        ("[v9]\nspot = 1", "v9; chips are v4"),
        ("[v6e]\nspott = 1", "v6e.spott = 1 is no price"),
        ("[v6e]\nspot = -1", "v6e.spot = -1 is no price"),
        ("[v6e\n", "not a TOML file"),
    ],
)
def test_a_wrong_table_of_prices_says_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        prices.load(str(file), CONFIG)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Say --slice NAME or --all"),
        (["--slice", "v9-8"], "no TPU slice v9-8; known are v4-8"),
        (["--slice", "v6e:4xx"], "no TPU slice v6e:4xx"),
        (["--slice", "v6e-16", "--size", "720p"], "--size is HEIGHTxWIDTHxFRAMES"),
        (["--slice", "v6e-16", "--size", "720x1280x80"], "4n+1 frames, got 80"),
        (["--slice", "v6e-16", "--credits", "-5"], "--credits is an amount of dollars"),
        (["--slice", "v6e-16", "--tries", "0"], "--tries is at least 1"),
        (["--slice", "v6e-16", "--stage", "nose"], "no stage 'nose'; there are text and reference"),
        (["--slice", "v6e-16", "--prices", "none.toml"], "no table of prices none.toml"),
        (["--slice", "v6e-16", "mesh.sdp=4"], "no setting mesh.sdp"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    assert main(["plan", CONFIG, *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_another_task_says_what_can_be_planned(capsys):
    assert main(["plan", "configs/mini_vae.py", "--slice", "v6e-4"]) == 2
    assert "trains Autoencoder" in capsys.readouterr().err


def test_the_command_prints_one_object_last(monkeypatch, capsys):
    monkeypatch.setattr(compiler, "ask", Compiler(lambda job: 20 * GIB))
    slices = ["--slice", "v6e-256", "--slice", "v5p-128"]
    assert main(["plan", CONFIG, *slices, "--credits", "200000", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(told["slices"]) == {"v6e-256", "v5p-128"}
    assert told["slices"]["v6e-256"]["fits"] and told["slices"]["v6e-256"]["reach"]["spot"] > 0
    assert told["size"] == "720x1280x81"


def test_lines_say_fit_time_and_cost(monkeypatch, capsys):
    peaks = {"v6e-256": 20 * GIB, "v6e-64": 60 * GIB}
    monkeypatch.setattr(compiler, "ask", Compiler(lambda job: peaks[job.slice]))
    assert main(["plan", CONFIG, "--slice", "v6e-256", "--slice", "v6e-64"]) == 0
    said = capsys.readouterr().out
    assert "v6e-256: fits, 20.0 of 31.2 GiB" in said and "1,000 steps: $" in said
    assert "v6e-64: does not fit, 60.0 of 31.2 GiB" in said and "--search" in said


def test_what_the_compiler_fails_at_is_told(monkeypatch, tmp_path):
    job = Job("configs/absent.py", (), "v6e-4", (5, 64, 64), "all")
    with pytest.raises(InputError, match=r"no config configs/absent\.py"):
        compiler.ask(job)


def test_the_code_is_part_of_what_an_answer_depends_on(monkeypatch):
    job = Job(MINI, (), "v6e-4", (5, 64, 64), "all")
    before = answers.key(job)
    monkeypatch.setattr(answers, "_code", lambda: "other")
    assert answers.key(job) != before


@pytest.mark.slow
def test_the_compiler_is_really_asked():
    """A small transformer on four chips: it fits, and what it does is read off its program."""
    changes = ("task.network.layers=2", "stages.all.batch=4")
    answer = compiler.ask(Job(MINI, changes, "v6e-4", (5, 64, 64), "all"))
    assert answer.fits and 0 < answer.peak < GIB
    assert answer.reading is not None and answer.reading.flops > 0
    assert any(sent.kind == "all-gather" and sent.among == 4 for sent in answer.reading.sent)
