"""Text -> features: the tokenizer, UMT5's encoder as Wan2.1 uses it, and its torch names."""

import functools
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftfy
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from omnihuman_jax import mesh
from omnihuman_jax.errors import InputError
from omnihuman_jax.models.building import Precision, linear, param, scan, stack
from omnihuman_jax.weights import Rule

TEXT_LENGTH = 512  # tokens of a prompt in Wan2.1, padding included
BUCKETS = (64, 128, 256)  # shorter lengths that a batch of short prompts is encoded at
BYTES = "byt5"  # the tokenizer that needs no vocabulary


@dataclass(frozen=True)
class UMT5Config:
    """Sizes of the encoder; the defaults are UMT5-XXL (google/umt5-xxl), 5.68 G parameters."""

    vocab: int = 256384
    width: int = 4096
    mlp: int = 10240
    heads: int = 64
    head_width: int = 64
    layers: int = 24
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6

    @classmethod
    def tiny(cls, **changes: Any) -> "UMT5Config":
        """An encoder of the same shape that runs in a second, with room for the ids of "byt5"."""
        sizes: dict[str, Any] = dict(vocab=384, width=32, mlp=48, heads=4, head_width=6, layers=3)
        return cls(**(sizes | changes))


class RMSNorm(nnx.Module):
    """x / rms(x) times the weight, in float32: T5's norm has neither mean nor bias."""

    def __init__(self, config: UMT5Config, precision: Precision, rngs: nnx.Rngs):
        self.eps = config.eps
        self.weight = param((config.width,), "_", precision, rngs, nnx.initializers.ones_init())

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        return (wide * self.weight[...].astype(jnp.float32)[None, None]).astype(x.dtype)


class Layer(nnx.Module):
    """Self-attention with a relative position bias of its own, then a gated feed-forward."""

    def __init__(self, config: UMT5Config, precision: Precision, rngs: nnx.Rngs):
        width, inner = config.width, config.heads * config.head_width

        def make(inputs: int, outputs: int, axes: str, spread: float) -> nnx.Linear:
            init = nnx.initializers.normal(spread)
            return linear(inputs, outputs, axes, precision, rngs, bias=False, init=init)

        # T5's initialisation, as transformers has it: the scores' missing 1/√K is in that of q.
        self.heads = config.heads
        self.norm1 = RMSNorm(config, precision, rngs)
        self.q = make(width, inner, "embed heads", (width * config.head_width) ** -0.5)
        self.k = make(width, inner, "embed heads", width**-0.5)
        self.v = make(width, inner, "embed heads", width**-0.5)
        self.o = make(inner, width, "heads embed", inner**-0.5)
        spread = nnx.initializers.normal(width**-0.5)
        shape = (config.buckets, config.heads)
        self.position_bias = param(shape, "_ heads", precision, rngs, spread)
        self.norm2 = RMSNorm(config, precision, rngs)
        self.gate = make(width, config.mlp, "embed mlp", width**-0.5)
        self.up = make(width, config.mlp, "embed mlp", width**-0.5)
        self.down = make(config.mlp, width, "mlp embed", config.mlp**-0.5)

    def __call__(
        self, x: Float[Array, "B S D"], buckets: Int[Array, "S S"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B S D"]:
        x = x + self._attend(self.norm1(x), buckets, lengths)
        y = self.norm2(x)
        hidden = nnx.gelu(self.gate(y), approximate=True) * self.up(y)
        return x + self.down(mesh.constrain(hidden, "batch tokens mlp"))

    def _attend(
        self, x: Float[Array, "B S D"], buckets: Int[Array, "S S"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B S D"]:
        """softmax(q kᵀ + bias) v, scores in float32; not divided by √K, as everywhere in T5."""
        q, k, v = (
            rearrange(project(x), "B S (N K) -> B S N K", N=self.heads)
            for project in (self.q, self.k, self.v)
        )
        scores = jnp.einsum("BSNK,BsNK->BNSs", q, k, preferred_element_type=jnp.float32)
        bias = self.position_bias[...].astype(jnp.float32)[buckets]
        seen = jnp.arange(x.shape[1])[None] < lengths[:, None]
        scores = scores + rearrange(bias, "S s N -> 1 N S s")
        scores = jnp.where(seen[:, None, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        out = jnp.einsum("BNSs,BsNK->BSNK", weights, v)
        return self.o(rearrange(out, "B S N K -> B S (N K)"))


class UMT5Encoder(nnx.Module):
    """The encoder half of UMT5 (UniMax, arXiv:2304.09151; T5 1.1 with a position bias in every layer)."""

    def __init__(self, config: UMT5Config, precision: Precision = Precision(), *, rngs: nnx.Rngs):
        self.config = config
        self.precision = precision
        shape, spread = (config.vocab, config.width), nnx.initializers.normal(1.0)
        self.embedding = param(shape, "vocab embed", precision, rngs, spread)
        self.layers = stack(lambda rng: Layer(config, precision, rng), config.layers, rngs)
        self.norm = RMSNorm(config, precision, rngs)

    def __call__(
        self, tokens: Int[Array, "B S"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B S D"]:
        """Features of every position. Only the first `lengths[b]` tokens of a text are attended to;
        what stands at the padding behind them means nothing (`text_features` makes it zero)."""
        # Rows first, cast after: the table of UMT5-XXL is a fifth of its weights.
        x = jnp.take(self.embedding[...], tokens, axis=0).astype(self.precision.compute)
        x = mesh.constrain(x, "batch tokens width")
        buckets = jnp.asarray(_buckets(tokens.shape[1], self.config))

        def apply(layer: Layer, x: Array) -> tuple[Array, None]:
            return mesh.constrain(layer(x, buckets, lengths), "batch tokens width"), None

        x, _ = scan(self.layers, apply, x)
        return self.norm(x)


def _buckets(length: int, config: UMT5Config) -> Int[np.ndarray, "S S"]:
    """The bucket of every (query, key): half for keys behind the query, half for keys before it; in
    each half one bucket a distance at first, then wider ones on a log scale up to `max_distance`."""
    half = config.buckets // 2
    exact = half // 2
    distance = np.arange(length)
    scale = (half - exact) / math.log(config.max_distance / exact)
    # The nudge keeps a power of two, an exact bucket border, from falling below it by rounding.
    coarse = exact + np.floor(np.log(np.maximum(distance, 1) / exact) * scale + 1e-6)
    bucket = np.where(distance < exact, distance, np.minimum(coarse, half - 1)).astype(np.int32)
    offset = distance[None, :] - distance[:, None]
    return bucket[np.abs(offset)] + np.where(offset > 0, half, 0).astype(np.int32)


class Tokenizer:
    """Prompts -> token ids, cleaned as Wan2.1 cleans them.

    `source` is a local folder with a transformers tokenizer (google/umt5-xxl of a Wan release), or
    "byt5": UTF-8 bytes, no vocabulary needed, ids below 384.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, source: str | Path):
        # Imported here: transformers takes seconds, and only texts need it.
        if str(source) == BYTES:
            from transformers import ByT5Tokenizer

            self._tokenizer: Any = ByT5Tokenizer()
        elif Path(source).is_dir():
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True)
        else:
            raise InputError(
                f"There is no tokenizer folder {str(source)!r}; give the folder that holds "
                f'tokenizer.json or spiece.model, or "{BYTES}" for plain bytes.'
            )
        self._tokenizer.padding_side = self._tokenizer.truncation_side = "right"

    def encode(
        self, texts: Sequence[str], length: int = TEXT_LENGTH
    ) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B"]]:
        """Ids padded or cut to `length`, and how many of each text are true; both end in `</s>`.

        Raises:
            InputError: no text at all, or one string where a list of them belongs.
        """
        if isinstance(texts, str) or not texts:
            raise InputError(f'Give a list of texts, such as ["a singer"]; got {texts!r}.')
        out = self._tokenizer(
            [clean(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=length,
            add_special_tokens=True,
            return_attention_mask=True,
        )
        tokens = np.asarray(out["input_ids"], np.int32)
        return tokens, np.asarray(out["attention_mask"], np.int32).sum(axis=-1, dtype=np.int32)


def clean(text: str) -> str:
    """Wan2.1's cleaning: repair the encoding, undo HTML escapes twice, one space for any white space."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def text_features(
    encoder: UMT5Encoder, tokenizer: Tokenizer, texts: Sequence[str], length: int = TEXT_LENGTH
) -> Float[Array, "B {length} D"]:
    """What Wan2.1's cross-attention reads: features up to each text's true length, zeros behind.

    A batch is encoded at the shortest of a few lengths that holds it, so that short prompts are cheap
    and few programs are compiled; the result does not depend on which.
    """
    tokens, lengths = tokenizer.encode(texts, length)
    size = min(length, next((b for b in BUCKETS if b >= lengths.max()), length))
    graph, params = nnx.split(encoder)
    features = _encode(graph, params, jnp.asarray(tokens[:, :size]), jnp.asarray(lengths))
    return jnp.pad(features, ((0, 0), (0, length - size), (0, 0)))


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    graph: Any, params: Any, tokens: Int[Array, "B S"], lengths: Int[Array, "B"]
) -> Float[Array, "B S D"]:
    features = nnx.merge(graph, params)(tokens, lengths)
    true = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
    return jnp.where(true[..., None], features, 0)


# Names in torch. Ours, without "layers/" -> theirs, in front of ".weight".
_LAYER = {
    "wan": {
        "norm1": "norm1",
        "norm2": "norm2",
        "position_bias": "pos_embedding.embedding",
        **{name: f"attn.{name}" for name in "qkvo"},
        "gate": "ffn.gate.0",
        "up": "ffn.fc1",
        "down": "ffn.fc2",
    },
    "transformers": {
        "norm1": "layer.0.layer_norm",
        "norm2": "layer.1.layer_norm",
        "position_bias": "layer.0.SelfAttention.relative_attention_bias",
        **{name: f"layer.0.SelfAttention.{name}" for name in "qkvo"},
        "gate": "layer.1.DenseReluDense.wi_0",
        "up": "layer.1.DenseReluDense.wi_1",
        "down": "layer.1.DenseReluDense.wo",
    },
}
_EMBEDDING = {
    "wan": Rule("token_embedding.weight", "embedding"),
    "transformers": Rule("shared.weight", "embedding", alias="encoder.embed_tokens.weight"),
}
_NORM = {"wan": "norm.weight", "transformers": "encoder.final_layer_norm.weight"}
_PREFIX = {"wan": "blocks.{}.", "transformers": "encoder.block.{}."}


def torch_rules(config: UMT5Config, layout: str) -> list[Rule]:
    """Every tensor of the encoder: 10 a layer and 2 more.

    Layouts: "wan" is models_t5_umt5-xxl-enc-bf16.pth; "transformers" a UMT5EncoderModel, as in the
    text_encoder folder of a diffusers release.
    """
    rules = [_EMBEDDING[layout], Rule(_NORM[layout], "norm/weight")]
    for ours, theirs in _LAYER[layout].items():
        name, path = f"{_PREFIX[layout]}{theirs}.weight", f"layers/{ours}"
        if ours == "position_bias":
            rules.append(Rule(name, path))
        elif ours.startswith("norm"):
            rules.append(Rule(name, f"{path}/weight"))
        else:
            rules.append(Rule(name, f"{path}/kernel", axes=(1, 0)))
    return rules


def recognise(
    shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]
) -> tuple[UMT5Config, str] | None:
    """The config and layout, if these torch tensors are a UMT5 encoder; None if they are not.

    T5 and mT5 are not: theirs is one position bias, in the first layer.
    """
    for layout, names in _LAYER.items():
        rule, prefix = _EMBEDDING[layout], _PREFIX[layout]
        table = shapes.get(rule.name) or shapes.get(rule.alias or "")
        first = {
            ours: shapes.get(f"{prefix}{name}.weight".format(0)) for ours, name in names.items()
        }
        bias, q, gate = first["position_bias"], first["q"], first["gate"]
        if table is None or bias is None or q is None or gate is None:
            continue
        pattern = re.compile(re.escape(prefix).replace(r"\{\}", r"(\d+)"))
        layers = 1 + max(int(found[1]) for name in shapes if (found := pattern.match(name)))
        biases = (f"{prefix}{names['position_bias']}.weight".format(i) for i in range(layers))
        if not all(name in shapes for name in biases):
            continue
        config = UMT5Config(
            vocab=table[0],
            width=table[1],
            mlp=gate[0],
            heads=bias[1],
            head_width=q[0] // bias[1],
            layers=layers,
            buckets=bias[0],
            max_distance=settings.get("relative_attention_max_distance", 128),
            eps=settings.get("layer_norm_epsilon", 1e-6),
        )
        return config, layout
    return None
