"""UMT5: parity with transformers, independence of padding, the tokenizer, and the names in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import umt5
from omnihuman_jax.models.building import FLOAT32, Precision, create, flat, with_params
from omnihuman_jax.models.umt5 import Tokenizer, UMT5Config, UMT5Encoder, text_features
from tests.goldens.load import load, params_of, torch_shapes


@pytest.fixture(scope="module")
def golden():
    return load("umt5")


@pytest.fixture(scope="module")
def tiny():
    return create(lambda rngs: UMT5Encoder(UMT5Config.tiny(), FLOAT32, rngs=rngs))


def abstract(config, precision=FLOAT32):
    return nnx.eval_shape(lambda: UMT5Encoder(config, precision, rngs=nnx.Rngs(0)))


def relative(ours, theirs):
    return np.linalg.norm(np.float32(ours) - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize(
    "precision, tolerance",
    [(FLOAT32, 1e-5), (Precision(), 2e-2)],  # torch's own bfloat16 is 2.3e-2 from its float32
)
def test_features_are_those_of_transformers(golden, precision, tolerance):
    config = UMT5Config.tiny(vocab=100)
    params = params_of(golden, umt5.torch_rules(config, "transformers"))
    params = {path: jnp.asarray(value, precision.params) for path, value in params.items()}
    encoder = with_params(abstract(config, precision), params)
    features = encoder(jnp.asarray(golden["tokens"]), jnp.asarray(golden["lengths"]))
    assert features.dtype == precision.compute
    for ours, theirs, length in zip(features, golden["features"], golden["lengths"], strict=True):
        assert relative(ours[:length], theirs[:length]) < tolerance


def test_tokens_behind_the_true_length_change_nothing(tiny):
    tokens = jax.random.randint(jax.random.key(0), (1, 40), 2, 384)
    changed = tokens.at[:, 25:].set(7)
    lengths = jnp.array([25])
    ours, theirs = tiny(tokens, lengths)[:, :25], tiny(changed, lengths)[:, :25]
    np.testing.assert_array_equal(ours, theirs)


def test_text_features_do_not_depend_on_the_bucket_and_are_zero_behind_the_text(tiny, monkeypatch):
    tokenizer, texts = Tokenizer("byt5"), ["a woman sings", ""]  # 14 and 1 tokens with </s>
    short = text_features(tiny, tokenizer, texts)  # encoded at 64 tokens
    monkeypatch.setattr(umt5, "BUCKETS", ())
    whole = text_features(tiny, tokenizer, texts)  # at 512
    assert short.shape == (2, 512, 32)
    np.testing.assert_allclose(short, whole, atol=1e-5)
    for features, length in zip(short, (14, 1), strict=True):
        assert np.abs(features[:length]).max(axis=-1).min() > 0
        assert not features[length:].any()


def test_a_forward_pass_of_umt5_xxl_needs_little_beside_its_weights():
    """float32 weights, bf16 compute: one layer is cast at a time (0.4 GB), not all of them (11 GB)."""
    graph, params = nnx.split(abstract(UMT5Config(), Precision()))
    shapes = jax.ShapeDtypeStruct((1, 512), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    memory = umt5._encode.lower(graph, params, *shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1e9


def test_tokenizer_ends_every_text_and_cuts_long_ones():
    tokens, lengths = Tokenizer("byt5").encode(["ab", "", "c" * 20], length=8)
    a, b, c = (ord(letter) + 3 for letter in "abc")  # byte values behind <pad>, </s>, <unk>
    assert tokens.tolist() == [[a, b, 1, 0, 0, 0, 0, 0], [1] + 7 * [0], 7 * [c] + [1]]
    assert lengths.tolist() == [3, 1, 8]


def test_tokenizer_reads_a_local_folder(tmp_path):
    """A three-word vocabulary of the kind T5 uses, saved as a Wan release saves its own."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁singer", -1.0)]
    fast = Fast(models.Unigram(pieces, unk_id=2))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    tokens, lengths = Tokenizer(tmp_path).encode(["a  singer", "a a a a a a"], length=5)
    assert tokens.tolist() == [[3, 4, 1, 0, 0], [3, 3, 3, 3, 1]]
    assert lengths.tolist() == [3, 5]


def test_cleaning_repairs_unescapes_twice_and_collapses_space():
    assert umt5.clean("  cafÃ© <b>\t&amp;amp;\n\nbar&nbsp; ") == "café <b> & bar"


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="no tokenizer folder"):
        Tokenizer(tmp_path / "absent")
    for texts in ("one string", []):
        with pytest.raises(InputError, match="list of texts"):
            Tokenizer("byt5").encode(texts)


@pytest.mark.parametrize("layout", ["wan", "transformers"])
def test_rules_name_every_tensor_of_umt5_xxl(layout):
    """242 tensors and 5,680,910,336 parameters, as in models_t5_umt5-xxl-enc-bf16.pth."""
    config = UMT5Config()
    params = flat(abstract(config))
    rules = umt5.torch_rules(config, layout)
    assert sorted(rule.path for rule in rules) == sorted(params)
    shapes = torch_shapes(params, rules)
    assert len(shapes) == 242
    assert sum(np.prod(shape) for shape in shapes.values()) == 5_680_910_336
    block = {
        "wan": "blocks.23.ffn.gate.0",
        "transformers": "encoder.block.23.layer.1.DenseReluDense.wi_0",
    }
    assert shapes[f"{block[layout]}.weight"] == (10240, 4096)
    assert umt5.recognise(shapes, {}) == (config, layout)


def test_recognises_the_golden_however_its_table_is_called(golden):
    shapes = {k[8:]: v.shape for k, v in golden.items() if k.startswith("weights/")}
    expected = UMT5Config.tiny(vocab=100), "transformers"
    assert umt5.recognise(shapes, {}) == expected
    shapes["encoder.embed_tokens.weight"] = shapes["shared.weight"]
    assert umt5.recognise(shapes, {}) == expected
    del shapes["shared.weight"]
    assert umt5.recognise(shapes, {}) == expected
    del shapes["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"]
    assert umt5.recognise(shapes, {}) is None  # a T5: not every layer has a bias
