"""A model directory is found whole or refused, and its networks come back as they were, on any mesh."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from omnihuman_jax import mesh, orbax_layout, storage
from omnihuman_jax.conversion import convert
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import manifest
from omnihuman_jax.models.building import FLOAT32, Precision, flat
from omnihuman_jax.models.directory import ModelDirectory, open_directory, save
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.models.umt5 import UMT5Encoder
from tests import released


@pytest.fixture(scope="module")
def dit() -> OmniHumanDiT:
    return released.random_network(OmniHumanDiT, DiTConfig.tiny(audio=released.AUDIO))


@pytest.fixture
def saved(dit: OmniHumanDiT, tmp_path: Path) -> ModelDirectory:
    return save(str(tmp_path / "model"), {"dit": dit}, tokenizer="byt5", weights="safetensors")


def assert_equal(network: Any, expected: Any) -> None:
    found, wanted = flat(network), flat(expected)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value)


@pytest.mark.parametrize("weights", ["orbax", "safetensors"])
def test_what_is_saved_is_loaded(dit: OmniHumanDiT, tmp_path: Path, weights: Any) -> None:
    text = released.random_network(UMT5Encoder, released.TINY["text_encoder"])
    save(
        str(tmp_path / "model"),
        {"dit": dit, "text_encoder": text},
        weights=weights,
        tokenizer="byt5",
        sampling={"steps": 2},
        provenance={"trained_by": "a test"},
    )
    model = open_directory(str(tmp_path / "model"))
    assert_equal(model.load("dit", FLOAT32), dit)
    assert_equal(model.load("text_encoder", FLOAT32), text)
    assert model.config("dit") == dit.config
    assert model.manifest.sampling == manifest.SAMPLING | {"steps": 2}
    assert model.manifest.provenance == {"trained_by": "a test"}
    assert model.tokenizer().encode(["a"])[1] == [2]
    lazy = model.arrays("dit")["blocks/up/kernel"]
    np.testing.assert_array_equal(lazy[1, 3:5], flat(dit)["blocks/up/kernel"][1, 3:5])


@pytest.mark.parametrize("kind", ["converted", "orbax", "safetensors"])
def test_weights_land_on_the_mesh_in_the_dtype_that_is_asked_for(
    dit: OmniHumanDiT, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "converted":
        monkeypatch.setattr(orbax_layout, "PIECE", 1000)
        monkeypatch.setattr(orbax_layout, "CHUNK", 300)
        released.wan_release(tmp_path, ["dit"])
        model = convert(str(tmp_path), str(tmp_path / "model"), progress=False)
        expected = model.load("dit", FLOAT32)
    else:
        model, expected = save(str(tmp_path / "model"), {"dit": dit}, weights=kind), dit
    devices = mesh.make_mesh(fsdp=4, tensor=2)
    loaded = model.load("dit", Precision(params=jnp.bfloat16), devices)
    kernels = flat(loaded)
    for path, value in flat(expected).items():
        np.testing.assert_array_equal(kernels[path], value.astype(jnp.bfloat16))
    kernel = kernels["blocks/self_attn/q/kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 48 // 4, 48 // 2)


def test_plain_orbax_restores_what_the_converter_wrote(tmp_path: Path) -> None:
    released.wan_release(tmp_path, ["dit"])
    model = convert(str(tmp_path), str(tmp_path / "model"), progress=False)
    expected = flat(model.load("dit", FLOAT32))
    for tree in (
        ocp.StandardCheckpointer().restore(tmp_path / "model/dit"),
        ocp.v1.load(tmp_path / "model/dit"),
    ):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        found = {"/".join(key.key for key in path): leaf for path, leaf in leaves}
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(found[path], value)


@pytest.mark.slow
def test_a_larger_network_keeps_what_is_stored_and_starts_the_rest(
    dit: OmniHumanDiT, saved: ModelDirectory
) -> None:
    """How training starts from Wan: the omni-conditions are added to what was converted."""
    config = dataclasses.replace(dit.config, pose=released.POSE)
    grown = flat(saved.load("dit", FLOAT32, config=config, seed=3))
    new = flat(jax.jit(lambda: nnx.state(OmniHumanDiT(config, FLOAT32, rngs=nnx.Rngs(3))))())
    assert grown.keys() > flat(dit).keys()
    for path, value in grown.items():
        np.testing.assert_array_equal(value, flat(dit)[path] if path in flat(dit) else new[path])
    smaller = dataclasses.replace(dit.config, audio=None)
    with pytest.raises(InputError, match=r"differ in \d+ parameters \(audio"):
        saved.load("dit", FLOAT32, config=smaller)


def edit(model: ModelDirectory, **changes: Any) -> None:
    path = Path(model.path, manifest.FILE)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 of family 'omnihuman-wan2.1'; this version reads format 1"),
        ({"family": "llama"}, "family 'llama'"),
        ({"networks": {"clip": {}}}, r"names the networks \['clip'\]; known are dit, vae"),
        (
            {"networks": {"dit": {"config": {"widht": 3}}}},
            "DiTConfig has no widht; it has audio, channels",
        ),
        ({"networks": {"dit": {"config": {"width": 7}}}}, "dit: "),
        ({"networks": {"dit": {"config": {"audio": {"layer": 3}}}}}, "audio: AudioConfig has no"),
        ({"networks": {"vae": {"weights": "orbax"}}}, "not whole: vae/_METADATA is missing"),
    ],
)
def test_a_manifest_that_we_cannot_follow_is_refused(
    saved: ModelDirectory, changes: dict[str, Any], message: str
) -> None:
    edit(saved, **changes)
    with pytest.raises(InputError, match=message):
        open_directory(saved.path)


def test_what_is_not_a_whole_model_directory_is_refused(
    saved: ModelDirectory, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"is not a model directory \(no model.json\)"):
        open_directory(str(tmp_path))
    with pytest.raises(InputError, match="has no vae; its networks are dit"):
        saved.load("vae", FLOAT32)
    with pytest.raises(InputError, match="already a model directory"):
        save(saved.path, {})
    Path(saved.path, manifest.FILE).write_text("{")
    with pytest.raises(InputError, match="is not the manifest of a model directory"):
        open_directory(saved.path)


def test_a_parameter_that_is_lost_is_named(dit: OmniHumanDiT, tmp_path: Path) -> None:
    model = save(str(tmp_path / "model"), {"dit": dit})
    edit(model, networks={"dit": {"weights": "orbax", "config": dataclasses.asdict(dit.config)}})
    metadata = tmp_path / "model/dit/_METADATA"
    content = json.loads(metadata.read_text())
    content["tree_metadata"] = {
        key: value for key, value in content["tree_metadata"].items() if "patch_bias" not in key
    }
    metadata.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"differ in 1 parameters \(patch_bias\)"):
        open_directory(model.path).load("dit", FLOAT32)


@pytest.mark.parametrize("weights", ["orbax", "safetensors"])
def test_a_parameter_of_another_shape_is_refused(
    dit: OmniHumanDiT, tmp_path: Path, weights: Any
) -> None:
    model = save(str(tmp_path / "model"), {"dit": dit}, weights=weights)
    for mlp in (32, 128):
        with pytest.raises(InputError, match=r"do not fit: [^\n]*$"):
            model.load("dit", FLOAT32, config=dataclasses.replace(dit.config, mlp=mlp))


def test_saving_again_replaces_the_whole(dit: OmniHumanDiT, saved: ModelDirectory) -> None:
    text = released.random_network(UMT5Encoder, released.TINY["text_encoder"])
    save(saved.path, {"text_encoder": text}, weights="safetensors", overwrite=True)
    assert sorted(storage.files(saved.path)) == ["model.json", "text_encoder/weights.safetensors"]
    assert [path.name for path in Path(saved.path).parent.iterdir()] == ["model"]
