"""benchmarks.dit in small: it prints what it says it prints, and null for what was not measured."""

import json

import jax
import pytest

from benchmarks import dit, train_step
from omnihuman_jax.models import building
from omnihuman_jax.training import flops


def run(capsys, *arguments):
    dit.main(["--size", "tiny", "--repeats", "1", *arguments])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_the_forward_pass_is_timed_and_no_figure_invented(capsys, monkeypatch):
    monkeypatch.setattr(dit.shutil, "which", lambda name: None)  # in this process
    monkeypatch.setattr(building, "PRECISIONS", {"int8": building.FLOAT32}, raising=False)
    line = run(capsys, "--only", "forward", "low", "peer")
    assert line["failed"] == {}
    assert line["forward_ms"] > 0 and line["recalled_ms"] > 0 and line["int8_ms"] > 0
    assert line["tokens"] == 3 * 16
    assert line["attention"]["(1, 48, 2, 24) -> 48"] == "reference"
    assert line["float8_ms"] is line["train_ms"] is None
    if jax.default_backend() == "cpu":
        assert line["mfu"] is line["peak_gb"] is line["vs_diffusers_forward"] is None
        assert set(line["diffusers"].values()) == {None}


def test_the_training_step_is_that_of_train_step_with_both_remats(capsys, monkeypatch):
    monkeypatch.setattr(dit.shutil, "which", lambda name: None)
    steps = {"full": 20.0, "attention": 10.0}

    def ours(config, grid, repeats, compute, remat):
        assert config.audio is config.pose is None
        return {"step_ms": steps[remat], "mfu": None, "peak_gb": None}

    monkeypatch.setattr(train_step, "ours", ours)
    monkeypatch.setattr(train_step, "diffusers", lambda *_: {"step_ms": 40.0, "peak_gb": 1.0})
    line = run(capsys, "--only", "train", "peer")
    assert (line["train_ms"], line["train_attention_ms"]) == (20, 10)
    assert line["vs_diffusers_train"] == 0.25 and line["vs_diffusers_forward"] is None


def test_a_measurement_that_fails_says_why_and_costs_no_other(capsys, monkeypatch):
    monkeypatch.setattr(dit, "measure", lambda what, *_: 1 / 0 if what == "train" else None)
    monkeypatch.setattr(dit.shutil, "which", lambda name: None)
    assert run(capsys, "--only", "train")["failed"] == {
        "train": "ZeroDivisionError: division by zero"
    }


def test_large_networks_are_not_for_cpus():
    with pytest.raises(RuntimeError, match="not for CPUs"):
        dit.measure("forward", "14b", 1)


def test_the_sizes_are_those_of_wan():
    count = lambda size: (
        flops.dit_flops(*dit.SIZES[size], reference=False, audio=False, pose=False).forward
    )
    assert dit.SIZES["14b"][1].tokens == dit.SIZES["1.3b"][1].tokens == 32_760
    # DESIGN 10: the floors at 750 TFLOP/s, 373 and 2220 ms.
    assert count("1.3b") / 750e12 == pytest.approx(0.373, rel=0.02)
    assert count("14b") / 750e12 == pytest.approx(2.220, rel=0.02)
