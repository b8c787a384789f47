"""A stand-in for cuDNN's attention in jnp: for machines without a GPU, in the two places where we enter it.

It stands for the library, and shows nothing about the library. What it shows is our arithmetic around
it: layouts, masks, log-sum-exp, rings. It has the convention of JAX's entries (which test_flash_gpu
compares with ours by lowering), and is as unhelpful as they may be: NaN wherever nothing is promised.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn

REAL = cudnn._dot_product_attention_bwd_p_wrapper.impl


def install(monkeypatch) -> None:
    """In place of JAX's two entries, and a cuDNN 9.13 that is found."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(cudnn, "dot_product_attention", forward)
    monkeypatch.setattr(cudnn, "_dot_product_attention_bwd_p_wrapper", Backward())


def scores(q, k, scale, of_k):
    """Scaled, float32, [B N L S]; -inf behind the lengths, NaN in clips without any."""
    all_ = jnp.einsum("BLNK,BSNK->BNLS", q, k, preferred_element_type=jnp.float32) * scale
    if of_k is None:
        return all_
    of_k = of_k[:, None, None, None]
    inside = jnp.arange(k.shape[1])[None, None, None] < of_k
    return jnp.where(of_k < 1, jnp.nan, jnp.where(inside, all_, -jnp.inf))


def forward(
    query, key, value, bias=None, mask=None, q_seqlen=None, kv_seqlen=None, *,
    scale=1.0, mask_type=cudnn.MaskType.NO_MASK, qkv_layout="BTNH", return_residual=False,
):  # fmt: skip
    """As `fused_attention_stablehlo.dot_product_attention`, with the arguments that we give."""
    assert bias is None and mask is None and qkv_layout == "BTNH" and return_residual
    lengths = _lengths(query, q_seqlen, kv_seqlen, mask_type)
    s = scores(query, key, scale, lengths)
    out = jnp.einsum("BNLS,BSNK->BLNK", jax.nn.softmax(s).astype(value.dtype), value)
    return out.astype(query.dtype), jax.nn.logsumexp(s, axis=-1)


class Backward:
    """The primitive of the backward pass; `impl` is JAX's own, whose signature we look at."""

    impl = staticmethod(REAL)

    def bind(self, *operands: Any, **options: Any):
        given = (
            inspect.signature(REAL).bind(*operands, **options).arguments
        )  # as JAX would take them
        q, k, v, out, gradient = (
            given[name] for name in ("query", "key", "value", "fwd_output", "grad_output")
        )
        stats = given["activation"]
        assert stats.dtype == jnp.float32 and stats.shape == (*q.shape[::2][:1], *q.shape[2:0:-1])
        assert q.dtype == k.dtype == v.dtype == out.dtype == gradient.dtype
        assert given["variadic_args"] == (False, False) and given["dropout_rate"] == 0
        assert given["layout"] == cudnn.AttentionLayout.BTNH.value
        padded = given["mask_type"] == cudnn.MaskType.PADDING
        of_q, of_k = (given[f"{x}_seqlen"] if padded else None for x in ("q", "kv"))
        of_k = _lengths(q, of_q, of_k, given["mask_type"])
        weights = jnp.exp(scores(q, k, given["scale"], of_k) - stats[..., None])
        wide = lambda x: x.astype(jnp.float32)
        mean = jnp.einsum("BLNK,BLNK->BNL", wide(out), wide(gradient))
        by_weight = jnp.einsum("BLNK,BSNK->BNLS", wide(gradient), wide(v))
        by_score = weights * (by_weight - mean[..., None]) * given["scale"]
        dq = jnp.einsum("BNLS,BSNK->BLNK", by_score, wide(k))
        dk = jnp.einsum("BNLS,BLNK->BSNK", by_score, wide(q))
        dv = jnp.einsum("BNLS,BLNK->BSNK", weights, wide(gradient))
        if of_k is not None:
            behind = (jnp.arange(k.shape[1])[None] >= of_k[:, None])[:, :, None, None]
            dk, dv = (jnp.where(behind, jnp.nan, x) for x in (dk, dv))
        return [x.astype(q.dtype) for x in (dq, dk, dv)]


def _lengths(q, of_q, of_k, mask_type):
    if mask_type == cudnn.MaskType.NO_MASK:
        assert of_q is None and of_k is None
        return None
    assert mask_type == cudnn.MaskType.PADDING
    assert of_q.dtype == of_k.dtype == jnp.int32 and of_q.shape == of_k.shape == q.shape[:1]
    return of_k
