"""The networks behind metrics on arbitrary weights, as torch has them; and how their files are told apart."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from omnihuman_jax.metric_conversion import NETWORKS
from omnihuman_jax.models import i3d, metric_files
from omnihuman_jax.models.i3d import I3D
from omnihuman_jax.models.inception import Inception
from omnihuman_jax.models.lpips import Lpips
from omnihuman_jax.models.resnet3d import ResNet3D
from omnihuman_jax.models.syncnet import SyncNet
from omnihuman_jax.torch_files import write_safetensors
from omnihuman_jax.weights import convert, torch_names
from tests.goldens.arbitrary import arbitrary, pixels
from tests.goldens.load import load

CLOSE = 1e-4  # of the largest output


@pytest.fixture(scope="module")
def golden():
    return load("metrics")


def released(part) -> dict[str, np.ndarray]:
    """Arbitrary tensors as the part's file has them."""
    shapes = {
        name: place.rule.undo(np.broadcast_to(np.float32(0), part.shapes[place.path])).shape
        for name, place in torch_names(part.rules, part.shapes).items()
    }
    return arbitrary(shapes)


def params(network: str) -> dict[str, np.ndarray]:
    parts = NETWORKS[network]
    return {k: v for part in parts for k, v in convert(released(part), part.rules).items()}


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < CLOSE * np.abs(theirs).max()


def test_inception_is_that_of_pytorch_fid(golden):
    close(Inception(params("inception"))(pixels((2, 40, 56, 3))), golden["inception"])


@pytest.mark.parametrize("backbone", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_lpips_is_that_of_its_package(golden, backbone):
    one, other = pixels((3, 64, 72, 3)), pixels((3, 64, 72, 3), 1)
    other[1] = one[1] * np.float32(0.9)
    network = Lpips(params({"alex": "lpips", "vgg": "lpips_vgg"}[backbone]), backbone)
    found = network(one, other)
    close(found, golden[f"lpips/{backbone}"])
    assert network(one, one) == pytest.approx(0, abs=1e-9)
    assert network(other, one) == pytest.approx(found, rel=1e-3)
    with pytest.raises(InputError, match="same size"):
        network(one, other[:, 1:])


@pytest.mark.slow
def test_i3d_is_that_of_its_layer_list(golden):
    network = I3D(params("i3d"))
    frames = pixels((16, 48, 40, 3))
    close(network(frames[None]), golden["i3d/whole"])
    with pytest.raises(InputError, match="16 frames"):
        network(frames[None, :15])


def test_i3d_of_small_pictures(golden):
    network = I3D(params("i3d"))
    x = i3d.convnets.resize(jnp.float32(pixels((16, 48, 40, 3)))[None], 64) / 127.5 - 1
    close(np.asarray(jax.jit(i3d._logits)(network._weights, x)), golden["i3d/small"])


def test_resnet3d_is_that_of_its_layer_list(golden):
    close(ResNet3D(params("resnet3d"))(pixels((16, 140, 90, 3))[None]), golden["resnet3d"])


def test_syncnet_is_that_of_its_layer_list(golden):
    network = SyncNet(params("syncnet"))
    close(network.lips(pixels((6, 224, 224, 3))), golden["syncnet/lips"])
    steps = np.random.default_rng(0).standard_normal((28, 13))
    close(network.sound(steps), golden["syncnet/sound"])


def write(path, tensors):
    kinds = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    write_safetensors(str(path), kinds, lambda name: [tensors[name]])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Released files of LPIPS and SyncNet, with what networks do not need in them."""
    folder = tmp_path_factory.mktemp("released")
    backbone, heads = NETWORKS["lpips"]
    extra = {"classifier.1.weight": np.ones((2, 2), np.float32)}
    write(folder / "alexnet.safetensors", released(backbone) | extra)
    write(folder / "alex.safetensors", released(heads))
    (part,) = NETWORKS["syncnet"]
    counter = {"netcnnaud.1.num_batches_tracked": np.array(7)}
    tensors = {f"module.{k}": v for k, v in (released(part) | counter).items()}
    write(folder / "syncnet.safetensors", tensors)
    return folder


def test_convert_tells_networks_apart_and_keeps_their_numbers(files, tmp_path, capsys):
    out = str(tmp_path / "weights")
    assert main(["convert", str(files), out, "--quiet", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["networks"] == ["lpips", "syncnet"] or said["networks"] == ["syncnet", "lpips"]
    assert {entry["file"] for entry in said["files"]} == {p.name for p in files.iterdir()}
    one, other = pixels((1, 40, 40, 3)), pixels((1, 40, 40, 3), 1)
    fresh = Lpips(params("lpips"))(one, other)
    np.testing.assert_array_equal(Lpips.load(f"{out}/lpips")(one, other), fresh)
    np.testing.assert_array_equal(Lpips.load(str(files))(one, other), fresh)
    wanted = params("syncnet")
    for path in (f"{out}/syncnet", str(files / "syncnet.safetensors")):
        for name, value in metric_files.read(path, "syncnet", NETWORKS["syncnet"]).items():
            np.testing.assert_array_equal(value, wanted[name])
    with pytest.raises(InputError, match="lpips, not inception"):
        Inception.load(f"{out}/lpips")
    assert main(["convert", str(files), out, "--quiet"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_what_is_missing_doubled_or_strange_is_said(files, tmp_path, capsys):
    out = str(tmp_path / "weights")
    backbone, heads = NETWORKS["lpips"]
    folder = tmp_path / "files"
    folder.mkdir()
    (tmp_path / "empty").mkdir()
    write(folder / "a.safetensors", released(backbone))
    for match, tensors in (
        ("lpips/weights/v0.1/alex.pth", None),
        ("same part of lpips", released(backbone)),
        ("no metric that we know", {"x": np.ones(3, np.float32)}),
        ("holds NaN", {k: v * np.nan for k, v in released(heads).items()}),
    ):
        if tensors:
            write(folder / "b.safetensors", tensors)
        assert main(["convert", str(folder), out, "--quiet"]) == 2
        assert match in capsys.readouterr().err
    assert not (tmp_path / "weights").exists()
    with pytest.raises(InputError, match=r"alexnet-owt-7be5be79\.pth and lpips/weights"):
        Lpips.load(str(folder / "b.safetensors"))
    with pytest.raises(InputError, match="no files like"):
        ResNet3D.load(str(folder))
    with pytest.raises(InputError, match="no checkpoint"):
        ResNet3D.load(str(tmp_path / "empty"))


def test_a_file_of_syncnet_is_found_by_its_name(tmp_path, monkeypatch):
    """It ends in .model, as files of tokenizers do, and is of torch before 1.6."""
    (part,) = NETWORKS["syncnet"]
    legacy = (Path(__file__).parents[1] / "goldens/torch_files_legacy.pth").read_bytes()
    (tmp_path / "syncnet_v2.model").write_bytes(legacy)
    (tmp_path / "spiece.model").write_bytes(b"no checkpoint")
    with metric_files.opened(str(tmp_path)) as (checkpoint,):
        assert "plain" in checkpoint.tensors
        assert not part.fits(checkpoint)
