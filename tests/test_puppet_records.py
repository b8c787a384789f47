"""Records from puppets and their truth: what a clip may teach is what its own json says."""

import json

import numpy as np
import pytest

from omnihuman_jax import puppet_records, storage
from omnihuman_jax.cli import main
from omnihuman_jax.data.source import RecordSource
from omnihuman_jax.errors import InputError
from omnihuman_jax.puppet_records import Cut


@pytest.fixture(scope="module")
def puppets(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("puppets"))
    size = ["--clips", "4", "--seconds", "1", "--size", "64x64", "--voices", "formant"]
    assert main(["puppets", folder, *size, "--processes", "1", "--quiet"]) == 0
    return folder


@pytest.mark.slow
def test_each_clip_gives_its_pieces_and_teaches_what_its_truth_says(puppets, tmp_path):
    out = str(tmp_path / "records")
    puppet_records.main([puppets, out, "--model", "mini-untrained", "--cut", "9x2", "1x3"])
    source = RecordSource(out)
    truth = {
        name[:-5]: json.loads(storage.read_bytes(storage.join(puppets, name)))["truth"]
        for name in storage.files(puppets, deep=False)
        if name.endswith(".json")
    }
    taught = {name: set(side["teaches"]) for name, side in truth.items() if side["teaches"]}
    examples = [source[i] for i in range(len(source))]
    assert len(examples) == 5 * len(taught)
    for example in examples:
        teaches = taught[example.source.removesuffix(".mp4")]
        assert set(example.teaches) == teaches
        assert (example.audio_features is not None) == ("audio" in teaches)
        assert (example.pose is not None) == ("pose" in teaches)
        assert example.latents.shape[0] in (1, 3)
    pieces = {e.id: e for e in examples}
    first, last = (np.asarray(pieces[f"{next(iter(taught))}#9.{n}"].latents) for n in (0, 1))
    assert not np.array_equal(first, last)


def test_a_cut_longer_than_the_clip_and_an_empty_folder_are_refused(puppets, tmp_path):
    with pytest.raises(InputError, match="frames, and a cut is 101 long"):
        puppet_records.write(
            puppets, str(tmp_path / "a"), "mini-untrained", [Cut(frames=101, pieces=1)]
        )
    with pytest.raises(InputError, match="no puppets in"):
        puppet_records.write(str(tmp_path), str(tmp_path / "b"), "mini-untrained", [])


@pytest.mark.parametrize("text", ["25", "24x2", "25x0", "x"])
def test_a_cut_is_frames_by_pieces(text, capsys):
    with pytest.raises(SystemExit):
        puppet_records.main(["a", "b", "--cut", text])
    assert "FRAMESxPIECES" in capsys.readouterr().err
