"""Model directories of one network each, made into one that has them all."""

import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import directory, joining
from omnihuman_jax.models.building import FLOAT32, arbitrary, flat
from omnihuman_jax.models.umt5 import BYTES, UMT5Config, UMT5Encoder
from omnihuman_jax.models.vae import CausalVAE, VAEConfig

TEXT = UMT5Config(vocab=384, width=8, mlp=8, heads=2, head_width=4, layers=1)


@pytest.fixture
def parts(tmp_path):
    vae = arbitrary(lambda rngs: CausalVAE(VAEConfig.tiny(), FLOAT32, rngs=rngs))
    directory.save(str(tmp_path / "a"), {"vae": vae}, weights="safetensors", provenance={"by": "a"})
    text = arbitrary(lambda rngs: UMT5Encoder(TEXT, FLOAT32, rngs=rngs))
    directory.save(
        str(tmp_path / "b"),
        {"text_encoder": text},
        weights="safetensors",
        tokenizer=BYTES,
        provenance={"by": "b"},
    )
    return tmp_path, {"vae": vae, "text_encoder": text}


def same(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(jnp.float32(one[path]), jnp.float32(other[path]))


def test_every_network_is_there_with_its_weights_and_its_origin(parts, capsys):
    folder, networks = parts
    joining.main([str(folder / "all"), str(folder / "a"), str(folder / "b")])
    assert "vae" in capsys.readouterr().out
    made = directory.open_directory(str(folder / "all"))
    for name, network in networks.items():
        same(made.load(name, FLOAT32), network)
    assert made.manifest.provenance["vae"]["by"] == "a"
    assert made.manifest.tokenizer == BYTES


def test_of_two_of_a_kind_the_last_wins(parts):
    folder, _ = parts
    config = VAEConfig.tiny(dim=8)
    other = arbitrary(lambda rngs: CausalVAE(config, FLOAT32, rngs=rngs))
    directory.save(str(folder / "c"), {"vae": other}, weights="safetensors")
    sources = [directory.open_directory(str(folder / name)) for name in "abc"]
    made = joining.join(str(folder / "all"), sources)
    assert made.config("vae") == config
    same(made.load("vae", FLOAT32), other)


def test_nothing_to_join_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one"):
        joining.join(str(tmp_path / "all"), [])


def test_to_ship_is_to_round_to_bfloat16_and_to_remember_where_it_came_from(parts):
    """Of a directory that was itself joined: each network's own origin stays."""
    folder, networks = parts
    sources = [directory.open_directory(str(folder / name)) for name in "ab"]
    joined = joining.join(str(folder / "all"), sources)
    joining.main([str(folder / "small"), joined.path, "--ship"])
    made = directory.open_directory(str(folder / "small"))
    for name, network in networks.items():
        given = flat(made.load(name, FLOAT32))
        for path, value in flat(network).items():
            rounded = np.asarray(value).astype(jnp.bfloat16).astype(np.float32)
            np.testing.assert_array_equal(given[path], rounded)
        size = (folder / "small" / name / "weights.safetensors").stat().st_size
        assert size < 0.7 * (folder / "all" / name / "weights.safetensors").stat().st_size
    by = {name: origin["by"] for name, origin in made.manifest.provenance.items()}
    assert by == {"vae": "a", "text_encoder": "b"}


def test_a_network_that_is_trained_again_forgets_its_origin(parts):
    folder, networks = parts
    sources = [directory.open_directory(str(folder / name)) for name in "ab"]
    joined = joining.join(str(folder / "all"), sources)
    again = directory.replace(
        joined,
        str(folder / "again"),
        {"vae": networks["vae"]},
        weights="safetensors",
        provenance={"by": "c"},
    )
    made = joining.join(str(folder / "more"), [again])
    by = {name: origin["by"] for name, origin in made.manifest.provenance.items()}
    assert by == {"vae": "c", "text_encoder": "b"}


def test_some_of_the_networks_alone(parts):
    folder, networks = parts
    some = joining.join(
        str(folder / "some"),
        [directory.open_directory(str(folder / name)) for name in "ab"],
        only=["vae"],
    )
    assert set(some.manifest.configs) == {"vae"}
    same(some.load("vae", FLOAT32), networks["vae"])
    with pytest.raises(InputError, match="dit"):
        joining.join(
            str(folder / "none"), [directory.open_directory(str(folder / "a"))], only=["dit"]
        )


def test_a_network_that_lies_elsewhere_is_read_there(parts):
    """As the one-step model, which has a transformer alone: the rest is that of another directory."""
    import dataclasses

    folder, networks = parts
    a, b = (directory.open_directory(str(folder / name)) for name in "ab")
    manifest = dataclasses.replace(
        a.manifest,
        configs={**b.manifest.configs, **a.manifest.configs},
        weights={**b.manifest.weights, **a.manifest.weights},
    )
    both = dataclasses.replace(
        a, manifest=manifest, elsewhere={"text_encoder": b.folder("text_encoder")}
    )
    same(both.load("text_encoder", FLOAT32), networks["text_encoder"])
    same(both.load("vae", FLOAT32), networks["vae"])
    copied = directory.replace(both, str(folder / "copied"), {"vae": networks["vae"]})
    same(copied.load("text_encoder", FLOAT32), networks["text_encoder"])
