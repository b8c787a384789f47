"""benchmarks.vae in small: it prints what it says it prints, and no figure that was not measured."""

import json

import jax
import pytest

from benchmarks import vae


@pytest.mark.slow
def test_one_json_line_with_times_and_nulls_for_what_is_not_here(capsys, monkeypatch):
    def here(args, side, work):  # in this process: another would import JAX four times more
        return vae.ours("mini", work, 1, None) if side == "ours" else None

    monkeypatch.setattr(vae, "apart", here)
    vae.main(["--size", "mini", "--repeats", "1"])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["decode_ms"] > 0 and line["encode_ms"] > 0 and line["chunk"] >= 1
    assert line["vs_diffusers_decode"] is line["vs_diffusers_encode"] is line["diffusers"] is None
    if jax.default_backend() == "cpu":
        assert line["peak_gb"] is line["encode_peak_gb"] is None and line["compute"] == "float32"


def test_ours_over_theirs(monkeypatch):
    """15 ms against 30 and 20 against 25."""
    times = {"ours": {"decode": 15, "encode": 20}, "diffusers": {"decode": 30, "encode": 25}}
    rest = dict.fromkeys(("size", "device", "compute", "chunk", "peak_gb", "compile_s"))
    monkeypatch.setattr(vae, "apart", lambda _, side, work: {**rest, "ms": times[side][work]})
    found = vae.compare(None)
    assert (found["vs_diffusers_decode"], found["vs_diffusers_encode"]) == (0.5, 0.8)


def test_no_repeats_are_refused(capsys):
    with pytest.raises(SystemExit):
        vae.main(["--repeats", "0"])
    assert "at least 1" in capsys.readouterr().err
