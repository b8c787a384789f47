"""wav2vec 2.0: parity with transformers, padding, long audio, the video's clock, the names in torch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import wav2vec2
from omnihuman_jax.models.building import FLOAT32, Precision, flat, with_params
from omnihuman_jax.models.wav2vec2 import (
    Wav2Vec2Config,
    Wav2Vec2Encoder,
    encode_long,
    feature_count,
    normalise,
    resample,
)
from tests.goldens.load import load, params_of, torch_shapes

CONFIGS = {"group": Wav2Vec2Config.tiny(), "layer": Wav2Vec2Config.tiny_layer()}
IGNORED = re.compile("|".join(wav2vec2.IGNORED))


def abstract(config, precision=FLOAT32):
    return nnx.eval_shape(lambda: Wav2Vec2Encoder(config, precision, rngs=nnx.Rngs(0)))


def part(variant):
    """The arrays of one of the two golden models, without the tensors to ignore."""
    golden = {k.removeprefix(f"{variant}/"): v for k, v in load("wav2vec2").items()}
    return {k: v for k, v in golden.items() if not IGNORED.fullmatch(k.removeprefix("weights/"))}


def trained(variant, precision=FLOAT32):
    """The golden's network."""
    golden = {k: v for k, v in part(variant).items() if not k.startswith(("group/", "layer/"))}
    config = CONFIGS[variant]
    params = params_of(golden, wav2vec2.torch_rules(config, "transformers"))
    return with_params(abstract(config, precision), jax.tree.map(jnp.asarray, params)), golden


def relative(ours, theirs):
    return np.linalg.norm(np.float32(ours) - theirs) / np.linalg.norm(theirs)


def encode(encoder, sound, lengths=None):
    """As the encoder called directly, but compiled once for every test with these shapes."""
    return wav2vec2._encode(*nnx.split(encoder), jnp.asarray(sound), lengths)


@pytest.fixture(scope="module", params=["group", "layer"])
def network(request):
    return trained(request.param)


@pytest.fixture(scope="module")
def sound():
    """75 features and a few samples more."""
    return jax.random.normal(jax.random.key(0), (1, 74 * 320 + 400 + 60))


def test_every_hidden_state_is_that_of_transformers(network):
    encoder, golden = network
    states = encode(encoder, golden["waveform"])
    assert states.shape == (2, feature_count(4000), 4, 16)
    for i in range(4):
        assert relative(states[:, :, i], golden["hidden_states"][:, :, i]) < 1e-5
    assert relative(encoder.last_hidden_state(states), golden["last_hidden_state"]) < 1e-5


def test_bfloat16_is_near():
    encoder, golden = trained("layer", Precision())
    states = encode(encoder, golden["waveform"])
    assert states.dtype == jnp.bfloat16
    assert relative(states, golden["hidden_states"]) < 3e-2


def test_normalise_is_that_of_the_feature_extractor():
    golden = load("wav2vec2")
    ours = normalise(jnp.asarray(golden["sound"]))
    np.testing.assert_allclose(ours, golden["waveform"], atol=1e-5)


def test_what_stands_behind_the_true_length_changes_nothing(network):
    encoder, golden = network
    padded = np.pad(golden["waveform"], ((0, 0), (0, 1234)), constant_values=5.0)
    states = encode(encoder, padded, jnp.array([4000, 4000]))[:, : feature_count(4000)]
    assert relative(states, golden["hidden_states"]) < 1e-5


def test_audio_within_a_window_is_encoded_as_a_whole(network):
    encoder, golden = network
    states = encode_long(encoder, jnp.asarray(golden["sound"]))
    assert relative(states, golden["hidden_states"]) < 1e-5


def test_short_audio_is_padded_and_empty_audio_refused(network):
    encoder, golden = network
    assert feature_count(1) == feature_count(719) == 1
    assert feature_count(720) == 2
    short = normalise(jnp.asarray(golden["sound"][:, :7]))
    one = encode(encoder, jnp.pad(short, ((0, 0), (0, 393))))
    assert one.shape[1] == 1
    np.testing.assert_allclose(encode_long(encoder, golden["sound"][:, :7]), one, atol=1e-4)
    for call in (encoder, lambda sound: encode_long(encoder, sound)):
        with pytest.raises(InputError, match="no samples"):
            call(jnp.zeros((1, 0)))


def test_windows_join_without_a_seam_where_nothing_looks_further_than_the_margin(sound):
    """Without attention a feature depends on the 6 before it and the 5 behind: margins of 7 hide them."""
    encoder, _ = trained("layer")
    encoder.layers.o.kernel[...] = jnp.zeros_like(encoder.layers.o.kernel[...])
    before = wav2vec2._encode._cache_size()
    parts = encode_long(encoder, sound, window=40, margin=7)
    assert wav2vec2._encode._cache_size() <= before + 1  # one program for every window
    whole = encode(encoder, normalise(sound))
    assert parts.shape == whole.shape == (1, 75, 4, 16)
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    too_near = encode_long(encoder, sound, window=40, margin=2)
    assert np.abs(too_near - whole).max() > 0.1


@pytest.mark.slow
def test_windows_are_close_to_the_whole(network, sound):
    """With attention they differ by what it saw beyond the window, and by the group norm's statistics;
    random weights attend everywhere, so this is far from what trained ones do."""
    encoder, _ = network
    whole = encode(encoder, normalise(sound))
    assert relative(encode_long(encoder, sound, window=40, margin=7), whole) < 0.1


def test_margins_must_leave_something_of_a_window(network):
    with pytest.raises(InputError, match="no room"):
        encode_long(network[0], jnp.ones((1, 800)), window=20, margin=10)


def test_resampling_a_ramp_tells_the_time():
    """Features that hold the second they are centred at become the middle of each frame, clamped."""
    seconds = (320 * np.arange(60) + 200) / 16000  # 0.0125 … 1.1925
    features = jnp.asarray(np.tile(seconds[None, :, None, None], (2, 1, 3, 4)), jnp.float32)
    frames = resample(features, 30, 25.0)
    assert frames.shape == (2, 30, 3, 4)
    expected = np.minimum((np.arange(30) + 0.5) / 25, seconds[-1])  # 0.02, 0.06 … 1.18
    np.testing.assert_allclose(frames[0, :, 0, 0], expected, atol=1e-6)
    late = resample(features, 40, 25.0)
    np.testing.assert_array_equal(late[:, 30:], jnp.broadcast_to(features[:, -1:], (2, 10, 3, 4)))
    early = resample(features, 1, 100.0)  # 0.005 s, before the first centre
    np.testing.assert_array_equal(early, features[:, :1])
    with pytest.raises(InputError, match="frame rate"):
        resample(features, 3, 0.0)


@pytest.mark.parametrize(
    "config, tensors, parameters",
    [
        # Wav2Vec2Model of transformers 5.23, less masked_spec_embed.
        (Wav2Vec2Config.base(), 210, 94_370_944),
        (Wav2Vec2Config.large(), 421, 315_437_696),
        (Wav2Vec2Config.large_960h(), 402, 315_427_968),
    ],
)
@pytest.mark.parametrize("layout", wav2vec2._LAYOUTS)
def test_rules_name_every_tensor(config, tensors, parameters, layout):
    params = flat(abstract(config))
    rules = wav2vec2.torch_rules(config, layout)
    assert sorted(params) == sorted(rule.path for rule in rules)
    shapes = torch_shapes(params, rules)
    assert len(shapes) == tensors
    assert sum(np.prod(shape) for shape in shapes.values()) == parameters
    extra = {"masked_spec_embed": (config.width,), "lm_head.weight": (32, config.width)}
    assert wav2vec2.recognise(shapes | extra, {}) == (config, layout)
    assert wav2vec2.recognise(extra, {}) is None


def test_recognises_the_goldens_and_ignores_what_heads_bring():
    settings = {"num_attention_heads": 2, "do_stable_layer_norm": True}
    shapes = {k[8:]: v.shape for k, v in part("layer").items() if k.startswith("weights/")}
    assert wav2vec2.recognise(shapes, settings) == (CONFIGS["layer"], "transformers")
    for name in ("wav2vec2.masked_spec_embed", "lm_head.bias", "quantizer.codevectors",
                 "project_q.weight", "project_hid.bias"):  # fmt: skip
        assert IGNORED.fullmatch(name)
    assert not any(IGNORED.fullmatch(name) for name in shapes)
