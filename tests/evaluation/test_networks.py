"""From released files through `omnihuman convert` to numbers of `evaluate`, on arbitrary weights."""

import json

import numpy as np
import pytest

from omnihuman_jax.cli import main
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.metric_conversion import NETWORKS
from tests.models.test_metric_networks import released, write


@pytest.mark.slow
def test_converted_networks_give_numbers_and_the_others_say_what_they_need(tmp_path, capsys):
    files, weights = tmp_path / "released", tmp_path / "weights"
    files.mkdir()
    for name in ("inception", "lpips"):
        for number, part in enumerate(NETWORKS[name]):
            write(files / f"{name}{number}.safetensors", released(part))
    assert main(["convert", str(files), str(weights), "--quiet"]) == 0
    random = np.random.default_rng(0)
    shade = random.integers(0, 255, (6, 4, 4, 3), np.uint8).repeat(12, axis=1).repeat(12, axis=2)
    lines = []
    for name, much in (("same", 0), ("little", 12), ("much", 60)):
        frames = np.uint8(np.clip(shade + much * random.standard_normal(shade.shape), 0, 255))
        with VideoWriter(tmp_path / f"{name}.mp4", height=48, width=48, fps=25) as out:
            out.append(frames)
        lines.append({"id": name, "video": f"{name}.mp4", "truth": "same.mp4"})
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    capsys.readouterr()
    command = ["evaluate", str(manifest), "--weights", str(weights), "--metrics"]
    assert main([*command, "fid,lpips,fvd_i3d,ssim", "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert found["fid"]["value"] > 0 and found["fid"]["samples"] == 18
    assert "biased upwards" in found["fid"]["warning"]
    assert found["fvd_i3d"]["value"] is None and "as i3d" in found["fvd_i3d"]["why"]
    clips = tmp_path / "evaluation/clips"
    values = {
        k: json.loads((clips / f"{k}.json").read_text())["values"]
        for k in ("same", "little", "much")
    }
    away = [values[k]["lpips"] for k in values]
    assert away[0] == pytest.approx(0, abs=1e-6) and away[0] < away[1] < away[2]
