"""Flash attention for NVIDIA GPUs: cuDNN's fused kernels, by way of JAX; nothing is left of the scores.

JAX's own door (`jax.nn.dot_product_attention`) rounds the log-sum-exp to the dtype of q, and its backward
pass takes no other log-sum-exp than its own, which a ring needs. So both passes enter one floor below, in
`jax._src.cudnn.fused_attention_stablehlo`, alike in JAX 0.11.2 and 0.12.0.1. That is private: `_cudnn` says
what it must look like, and where it does not, this kernel refuses and the next one runs.

What cuDNN calls stats is the natural logarithm of the sum of exponentials of the scaled scores, float32
[B N L] (`_dot_product_attention_fwd_abstract` there; FlashAttention-2, arXiv 2307.08691, section 3.1.1).
Tangents have no kernel here: they are those of chunked.py.
"""

import inspect
import re
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from omnihuman_jax import mesh
from omnihuman_jax.attention.chunked import CHUNKED
from omnihuman_jax.attention.kernel import NOTHING, QKV, Kernel, Mask, Out

# Fewer keys are left to XLA. With few keys, time is q read and the output written: cuDNN does that once,
# XLA about three times (it transposes both), 0.1 ms more for 32,760 tokens of width 1536 on an H100 by that
# count. But cuDNN's tiles have 64 keys or more, and what it accepts below that depends on its version
# (PyTorch, for one, gives it no single key). `benchmarks.attention_gpu` times both for the 4 keys of a
# frame's sound; not measured yet.
FEW = 64
AMPERE, HOPPER = (8, 0), (9, 0)
CUDNN = 90000  # before, lengths had to be multiples of 64

_OPERANDS = (
    "query", "key", "value", "bias", "q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets",
    "page_table_k", "page_table_v", "activation", "fwd_output", "grad_output",
)  # fmt: skip
_OPTIONS = {
    "scale", "seed", "dropout_rate", "variadic_args", "mask_type", "layout", "sliding_window_length",
}  # fmt: skip


def _check(qkv: QKV, mask: Mask) -> None:
    q, k, v = qkv
    if (platform := mesh.target()[0]) != "gpu":
        raise NotImplementedError(f"flash_gpu runs on GPUs, this is {platform}.")
    if mask.segments is not None:
        raise NotImplementedError(
            "flash_gpu knows lengths but no segments: cuDNN's need those of a clip to lie in one piece."
        )
    if q.dtype not in (jnp.bfloat16, jnp.float16) or not q.dtype == k.dtype == v.dtype:
        raise NotImplementedError(
            f"cuDNN's attention takes bfloat16 or float16, got {q.dtype}, {k.dtype} and {v.dtype}; "
            "float32 has no fused kernel on GPUs."
        )
    capability = _capability()
    widest = 256 if capability >= HOPPER else 128
    if q.shape[-1] % 8 or q.shape[-1] > widest:
        raise NotImplementedError(
            f"cuDNN's attention takes widths of a multiple of 8 up to {widest} here, got {q.shape[-1]}."
        )
    if k.shape[1] < FEW:
        raise NotImplementedError(
            f"flash_gpu leaves fewer than {FEW} keys to XLA, got {k.shape[1]}."
        )
    if not q.size:
        raise NotImplementedError("flash_gpu takes at least one query.")
    if capability < AMPERE:
        raise NotImplementedError(
            f"cuDNN's attention needs compute capability 8.0, this GPU has {capability[0]}.{capability[1]}."
        )
    if (version := _version(_cudnn())) < CUDNN:
        raise NotImplementedError(f"flash_gpu needs cuDNN 9, this is {version}.")


def _capability() -> tuple[int, int]:
    """The compute capability of the GPU here; Hopper's where a program is traced for one elsewhere.

    Raises:
        NotImplementedError: a GPU that has none (AMD's).
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return HOPPER
    said = str(getattr(device, "compute_capability", ""))
    if not (numbers := re.fullmatch(r"(\d+)\.(\d+)", said)):
        raise NotImplementedError(f"flash_gpu is cuDNN, for NVIDIA's GPUs; this is {device}.")
    return int(numbers[1]), int(numbers[2])


def _version(cudnn: ModuleType) -> int:
    try:
        return cudnn.check_cudnn_version()
    except RuntimeError as why:
        raise NotImplementedError("flash_gpu needs cuDNN, and JAX finds none.") from why


def _cudnn() -> ModuleType:
    """JAX's module over cuDNN.

    Raises:
        NotImplementedError: it is not there, or takes other arguments than this file gives.
    """
    try:
        from jax._src.cudnn import fused_attention_stablehlo as cudnn

        forward = inspect.signature(cudnn.dot_product_attention).parameters
        backward = inspect.signature(cudnn._dot_product_attention_bwd_p_wrapper.impl).parameters
        for name in ("check_cudnn_version", "MaskType", "AttentionLayout"):
            getattr(cudnn, name)
    except (ImportError, AttributeError) as why:
        raise NotImplementedError(_stranger(str(why))) from why
    given = {"q_seqlen", "kv_seqlen", "scale", "mask_type", "qkv_layout", "return_residual"}
    if missing := given - forward.keys():
        raise NotImplementedError(_stranger(f"its forward pass has no {sorted(missing)}"))
    names = [name for name, p in backward.items() if p.kind is not p.VAR_POSITIONAL]
    operands, options = tuple(names[: len(_OPERANDS)]), set(names[len(_OPERANDS) :])
    if operands != _OPERANDS or options - {"score_mod"} != _OPTIONS:
        raise NotImplementedError(_stranger(f"its backward pass takes {names}"))
    return cudnn


def _stranger(why: str) -> str:
    return f"flash_gpu does not know the cuDNN attention of JAX {jax.__version__}: {why}."


def _lengths(qkv: QKV, mask: Mask) -> tuple[Int[Array, "B"], Int[Array, "B"]] | None:
    """How many queries and keys of each clip cuDNN shall look at; a key at least, see `_blank`."""
    if mask.lengths is None:
        return None
    clips, queries = qkv[0].shape[:2]
    keys = jnp.clip(mask.lengths, 1, qkv[1].shape[1]).astype(jnp.int32)
    return jnp.full(clips, queries, jnp.int32), keys


def _blank(x: Array, mask: Mask, value: float = 0) -> Array:
    """`value` in clips without any key, where cuDNN was shown one."""
    if mask.lengths is None:
        return x
    none = (mask.lengths == 0).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(none, jnp.asarray(value, x.dtype), x)


def _forward(qkv: QKV, mask: Mask) -> Out:
    cudnn, lengths = _cudnn(), _lengths(qkv, mask)
    of_q, of_k = lengths or (None, None)
    out, lse = cudnn.dot_product_attention(
        *qkv,
        q_seqlen=of_q,
        kv_seqlen=of_k,
        scale=_scale(qkv[0]),
        mask_type=cudnn.MaskType.PADDING if lengths else cudnn.MaskType.NO_MASK,
        qkv_layout="BTNH",
        return_residual=True,
    )
    return _blank(out, mask), _blank(lse, mask, NOTHING)


def _backward(qkv: QKV, mask: Mask, out: Array, lse: Array, gradient: Array) -> QKV:
    """From any `out` and `lse`: weights are exp(score - lse), their mean gradient is out · gradient."""
    cudnn, lengths = _cudnn(), _lengths(qkv, mask)
    q, k, v = qkv
    unused = jnp.zeros(0, q.dtype)
    of_q, of_k = lengths or (unused, unused)
    operands = dict.fromkeys(_OPERANDS, unused) | {
        "query": q,
        "key": k,
        "value": v,
        "q_seqlen": of_q,
        "kv_seqlen": of_k,
        "activation": lse.astype(jnp.float32),
        "fwd_output": out.astype(q.dtype),
        "grad_output": gradient.astype(q.dtype),
    }
    backward = cudnn._dot_product_attention_bwd_p_wrapper
    options: dict[str, Any] = {
        "scale": _scale(q),
        "seed": 42,  # of dropout, of which there is none
        "dropout_rate": 0.0,
        "variadic_args": (False, False),  # no bias, no gradient of it
        "mask_type": cudnn.MaskType.PADDING if lengths else cudnn.MaskType.NO_MASK,
        "layout": cudnn.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
    }
    if "score_mod" in inspect.signature(backward.impl).parameters:  # since 0.12
        options["score_mod"] = None
    dq, dk, dv = backward.bind(*operands.values(), **options)
    return _blank(dq, mask), _seen(dk, mask), _seen(dv, mask)


def _seen(x: Float[Array, "B S N K"], mask: Mask) -> Float[Array, "B S N K"]:
    """0 behind the lengths, where cuDNN promises nothing."""
    if mask.lengths is None:
        return x
    inside = jnp.arange(x.shape[1])[None] < mask.lengths[:, None]
    return jnp.where(inside[:, :, None, None], x, jnp.zeros((), x.dtype))


def _scale(q: Array) -> float:
    return float(1 / np.sqrt(q.shape[-1]))


FLASH_GPU = Kernel("flash_gpu", _check, _forward, _backward, CHUNKED.tangent, opaque=True)
