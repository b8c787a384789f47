"""benchmarks.train_step in small: it prints what it says it prints, and counts the FLOPs of what it ran."""

import json

import jax
import pytest

from benchmarks import train_step


@pytest.mark.slow
def test_one_json_line_with_a_time_and_no_figure_that_was_not_measured(capsys):
    train_step.main(["--size", "tiny", "--repeats", "1"])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["step_ms"] > 0 and line["plain_step_ms"] > 0 and line["tokens"] == 3 * 16
    if jax.default_backend() == "cpu":
        assert line["mfu"] is line["peak_gb"] is line["vs_diffusers"] is line["diffusers"] is None


def test_the_batch_gives_the_network_all_that_it_takes():
    config, grid = train_step.SIZES["tiny"]
    batch = train_step.batch_of(config, grid, conditions=True)
    assert set(batch.conditions.given()) == {"text", "reference", "audio", "pose"}
    assert batch.conditions.audio.shape == (1, 9, 13, 768)
    bare = train_step.batch_of(config, grid, conditions=False)
    assert set(bare.conditions.given()) == {"text"}


def test_no_repeats_are_refused(capsys):
    with pytest.raises(SystemExit):
        train_step.main(["--repeats", "0"])
    assert "at least 1" in capsys.readouterr().err
