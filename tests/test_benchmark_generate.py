"""benchmarks.generate in small: phases add up to the whole, and no peer is claimed where none ran."""

import json

import pytest

from benchmarks import generate


@pytest.mark.slow
def test_one_json_line_whose_phases_are_the_whole(capsys):
    generate.main(["--size", "mini", "--steps", "1"])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = line["steps_1"]
    phases = [found[f"{name}_s"] for name in (*generate.PHASES, "write")]
    assert min(phases) > 0 and sum(phases) == pytest.approx(found["total_s"], abs=0.01)
    assert line["diffusers"] is line["vs_diffusers"] is None and line["load_s"] > 0


def test_no_steps_are_refused(capsys):
    with pytest.raises(SystemExit):
        generate.main(["--steps", "0"])
    assert "at least 1" in capsys.readouterr().err
