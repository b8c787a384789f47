"""Layers of the causal VAE: each takes the next frames and what it remembers, and returns both."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from omnihuman_jax.models.building import Precision, linear, param

# What a layer remembers of the frames before: a pytree of arrays, None before the first frame.
Cache = Any


class CausalConv(nnx.Module):
    """A 3x3x3 convolution that sees two frames back and none ahead."""

    def __init__(self, inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs):
        self.kernel = _kernel((3, 3, 3, inputs, outputs), precision, rngs)
        self.bias = param((outputs,), "channels", precision, rngs)
        self.compute = precision.compute

    def __call__(
        self, x: Float[Array, "B F Y X I"], past: Cache = None
    ) -> tuple[Float[Array, "B F Y X O"], Cache]:
        x, kernel = x.astype(self.compute), self.kernel[...].astype(self.compute)
        bias = _everywhere(self.bias, self.compute)
        if past is None and x.shape[1] == 1:  # before it are zeros only: one tap of three
            return conv2d(x, kernel[2]) + bias, _after(past, x)[:, -2:]
        x = _after(past, x)
        y = jax.lax.platform_dependent(x, kernel, **CONVOLUTIONS, default=conv3d)
        return y + bias, x[:, -2:]


def conv3d(
    x: Float[Array, "B E Y X I"], kernel: Float[Array, "3 3 3 I O"]
) -> Float[Array, "B F Y X O"]:
    """Convolve `x`, E = F+2 frames: none added in time, zeros around each frame.

    What the others mean, and the slowest of them on every platform.
    """
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1, 1),
        ((0, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def conv_by_taps(
    x: Float[Array, "B E Y X I"], kernel: Float[Array, "3 3 3 I O"]
) -> Float[Array, "B F Y X O"]:
    """`conv3d` as three 2-D convolutions: XLA's 3-D one is 2 to 6 times slower on CPUs.

    In float32, which costs a CPU no more than bfloat16, so that the sum of the three is rounded once.
    """
    frames = x.shape[1] - 2
    x32, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    one, two, three = (_conv2d(x32[:, t : t + frames], kernel[t]) for t in range(3))
    return (one + two + three).astype(x.dtype)


def conv_folded(
    x: Float[Array, "B E Y X I"], kernel: Float[Array, "3 3 3 I O"]
) -> Float[Array, "B F Y X O"]:
    """`conv3d` as one 2-D convolution of each frame with the two before it as further channels.

    For GPUs: XLA gives cuDNN 2-D convolutions with the channels last, as its tensor cores take them, and
    3-D ones with the channels first, with a transpose on either side (HeuristicLayoutAssignment in XLA's
    gpu layout_assignment.cc). The sum over time is the matmul's own, in float32.
    """
    frames = x.shape[1] - 2
    stacked = jnp.concatenate([x[:, t : t + frames] for t in range(3)], axis=-1)
    return _conv2d(stacked, rearrange(kernel, "t y x I O -> y x (t I) O"))


def conv_by_columns(
    x: Float[Array, "B E Y X I"], kernel: Float[Array, "t a b I O"], stride: int = 1
) -> Float[Array, "B _ _ _ O"]:
    """`conv3d`, or `conv2d` with one tap in time: columns are the batch, their neighbours more channels.

    For TPUs: a batch of few frames XLA cuts into strips of columns to fill its batch, and it copies the
    frames there and back again at every convolution, which costs more than the convolution.
    """
    batch, (_, _, width, _, _) = x.shape[0], kernel.shape
    edge = (2 - stride, 1)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), edge, (0, 0)))
    reach = x.shape[3] - width + 1
    stacked = jnp.concatenate([x[:, :, :, b : b + reach : stride] for b in range(width)], axis=-1)
    y = jax.lax.conv_general_dilated(
        rearrange(stacked, "B E Y X I -> E Y (B X) I"),
        rearrange(kernel, "t a b I O -> t a (b I) O"),
        (1, stride),
        ((0, 0), edge),
        dimension_numbers=("HWNC", "HWIO", "HWNC"),
    )
    return rearrange(y, "F Y (B X) O -> B F Y X O", B=batch)


# What a 3x3x3 convolution is on each platform.
CONVOLUTIONS: Any = dict(cpu=conv_by_taps, cuda=conv_folded, rocm=conv_folded, tpu=conv_by_columns)


def conv2d(
    x: Float[Array, "B F Y X I"], kernel: Float[Array, "_ _ I O"], stride: int = 1
) -> Float[Array, "B F _ _ O"]:
    """A 3x3 or 2x2 convolution of each frame, zeros around it.

    With stride 2, zeros below and to the right only, as Wan does. A 2x2 one makes a row and a column more.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        tpu=lambda x, kernel: conv_by_columns(x, kernel[None], stride),
        default=lambda x, kernel: _conv2d(x, kernel, stride),
    )


def _conv2d(
    x: Float[Array, "B F Y X I"], kernel: Float[Array, "_ _ I O"], stride: int = 1
) -> Float[Array, "B F _ _ O"]:
    """`conv2d` with frames as the batch."""
    frames = rearrange(x, "B F Y X I -> (B F) Y X I")
    edge = (2 - stride, 1)
    y = jax.lax.conv_general_dilated(
        frames, kernel, (stride, stride), (edge, edge), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return rearrange(y, "(B F) Y X O -> B F Y X O", B=x.shape[0])


def conv_of_doubled(
    x: Float[Array, "B F Y X I"], kernel: Float[Array, "3 3 I O"]
) -> Float[Array, "B F _ _ O"]:
    """A 3x3 convolution of `x` doubled in rows and columns, at 4/9 of its work.

    A pixel of the doubled frame sees only 2x2 different ones, so a 2x2 convolution of `x` itself with
    summed taps gives it; the one at the corner of four pixels gives the 2x2 pixels around that corner.
    """
    corners = _around_corners(_around_corners(kernel.astype(jnp.float32), 0), 1)
    y = conv2d(x, rearrange(corners.astype(x.dtype), "y x I p q O -> y x I (p q O)"))
    y = rearrange(y, "B F Y X (p q O) -> B F (Y p) (X q) O", p=2, q=2)
    return y[:, :, 1:-1, 1:-1]


def _around_corners(kernel: Float32[Array, "... O"], axis: int) -> Float32[Array, "... 2 O"]:
    """Three taps on doubled pixels -> two on the pixels: for the one before a corner, the one behind."""
    one, two, three = jnp.split(kernel, 3, axis)
    before = jnp.concatenate([one + two, three], axis)
    behind = jnp.concatenate([one, two + three], axis)
    return jnp.stack([before, behind], axis=-2)


def _kernel(shape: tuple[int, ...], precision: Precision, rngs: nnx.Rngs) -> nnx.Param:
    axes = "_ " * (len(shape) - 2) + "channels channels"
    return param(shape, axes, precision, rngs, nnx.initializers.lecun_normal())


def _everywhere(values: nnx.Param, dtype: DTypeLike) -> Float[Array, "1 1 1 1 C"]:
    """A number a channel, the same in every pixel."""
    return values[...].astype(dtype)[None, None, None, None]


def _after(past: Cache, x: Float[Array, "B F Y X I"]) -> Float[Array, "B F+2 Y X I"]:
    """`x` behind the two frames before it; before the first frame there are zeros."""
    if past is None:
        return jnp.pad(x, ((0, 0), (2, 0), (0, 0), (0, 0), (0, 0)))
    return jnp.concatenate([past, x], axis=1)


class SpatialConv(nnx.Module):
    """A 3x3 convolution of each frame by itself."""

    def __init__(
        self, inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs, *, stride: int = 1
    ):
        self.kernel = _kernel((3, 3, inputs, outputs), precision, rngs)
        self.bias = param((outputs,), "channels", precision, rngs)
        self.compute, self.stride = precision.compute, stride

    def __call__(self, x: Float[Array, "B F Y X I"]) -> Float[Array, "B F _ _ O"]:
        y = conv2d(x.astype(self.compute), self.kernel[...].astype(self.compute), self.stride)
        return y + _everywhere(self.bias, self.compute)


class DoublingConv(SpatialConv):
    """The same of a frame doubled in rows and columns."""

    def __call__(self, x: Float[Array, "B F Y X I"]) -> Float[Array, "B F _ _ O"]:
        y = conv_of_doubled(x.astype(self.compute), self.kernel[...])
        return y + _everywhere(self.bias, self.compute)


class TimeConv(nnx.Module):
    """A convolution of three frames, pixel by pixel. The caller brings the frames before."""

    def __init__(
        self, inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs, *, stride: int = 1
    ):
        self.kernel = _kernel((3, inputs, outputs), precision, rngs)
        self.bias = param((outputs,), "channels", precision, rngs)
        self.compute, self.stride = precision.compute, stride

    def __call__(self, x: Float[Array, "B E Y X I"]) -> Float[Array, "B F Y X O"]:
        frames = (x.shape[1] - 3) // self.stride + 1
        taps = [x[:, t : t + self.stride * frames : self.stride] for t in range(3)]
        stacked = jnp.concatenate(taps, axis=-1).astype(self.compute)
        kernel = rearrange(self.kernel[...], "t I O -> (t I) O").astype(self.compute)
        return jnp.einsum("bfyxi,io->bfyxo", stacked, kernel) + _everywhere(self.bias, self.compute)


class Norm(nnx.Module):
    """Each pixel's channels scaled to length sqrt(C), times gamma; in and out of float32."""

    def __init__(self, width: int, precision: Precision, rngs: nnx.Rngs):
        self.gamma = param((width,), "channels", precision, rngs, nnx.initializers.ones_init())

    def __call__(self, x: Float[Array, "B F Y X C"]) -> Float[Array, "B F Y X C"]:
        x = x.astype(jnp.float32)
        squares = jnp.sum(x * x, axis=-1, keepdims=True)
        gain = math.sqrt(x.shape[-1]) * _everywhere(self.gamma, jnp.float32)
        # torch's floor of 1e-12 on the length, put under the root so that zero has a gradient.
        return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24)) * gain


class Residual(nnx.Module):
    """Twice norm, SiLU, causal convolution, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs):
        self.norm1 = Norm(inputs, precision, rngs)
        self.conv1 = CausalConv(inputs, outputs, precision, rngs)
        self.norm2 = Norm(outputs, precision, rngs)
        self.conv2 = CausalConv(outputs, outputs, precision, rngs)
        self.shortcut = (
            None
            if inputs == outputs
            else linear(inputs, outputs, "channels channels", precision, rngs)
        )

    def __call__(
        self, x: Float[Array, "B F Y X I"], past: Cache = None
    ) -> tuple[Float[Array, "B F Y X O"], Cache]:
        past1, past2 = (None, None) if past is None else past
        y, past1 = self.conv1(jax.nn.silu(self.norm1(x)), past1)
        y, past2 = self.conv2(jax.nn.silu(self.norm2(y)), past2)
        return y + (x if self.shortcut is None else self.shortcut(x)), (past1, past2)


class FrameAttention(nnx.Module):
    """Self-attention of the pixels of one frame, a single head as wide as the network."""

    def __init__(self, width: int, precision: Precision, rngs: nnx.Rngs):
        self.norm = Norm(width, precision, rngs)
        self.qkv = linear(width, 3 * width, "channels channels", precision, rngs)
        self.proj = linear(
            width, width, "channels channels", precision, rngs, init=nnx.initializers.zeros_init()
        )

    def __call__(
        self, x: Float[Array, "B F Y X C"], past: Cache = None
    ) -> tuple[Float[Array, "B F Y X C"], Cache]:
        batch, _, rows, _, width = x.shape

        def one(frame: Float[Array, "L C3"]) -> Float[Array, "L C"]:
            q, k, v = jnp.split(frame, 3, axis=-1)
            scores = jnp.einsum("qc,kc->qk", q, k, preferred_element_type=jnp.float32)
            weights = jax.nn.softmax(scores / math.sqrt(width), axis=-1)
            return weights.astype(v.dtype) @ v

        qkv = rearrange(self.qkv(self.norm(x)), "B F Y X C3 -> (B F) (Y X) C3")
        # A frame at a time: the scores of one 720p frame alone are 14400 x 14400.
        y = rearrange(jax.lax.map(one, qkv), "(B F) (Y X) C -> B F Y X C", B=batch, Y=rows)
        return x + self.proj(y), None


class Downsample(nnx.Module):
    """Halve rows and columns and, with `time`, frames. The first frame of all has no partner and stays."""

    def __init__(self, width: int, time: bool, precision: Precision, rngs: nnx.Rngs):
        self.space = SpatialConv(width, width, precision, rngs, stride=2)
        self.time = TimeConv(width, width, precision, rngs, stride=2) if time else None

    def __call__(
        self, x: Float[Array, "B F Y X C"], past: Cache = None
    ) -> tuple[Float[Array, "B _ _ _ C"], Cache]:
        x = self.space(x)
        if self.time is None:
            return x, None
        if past is None:
            return jnp.concatenate([x[:, :1], self.time(x)], axis=1), x[:, -1:]
        return self.time(jnp.concatenate([past, x], axis=1)), x[:, -1:]


class Upsample(nnx.Module):
    """Double rows and columns, halve the width and, with `time`, double frames but the first of all."""

    def __init__(self, width: int, time: bool, precision: Precision, rngs: nnx.Rngs):
        self.space = DoublingConv(width, width // 2, precision, rngs)
        self.time = TimeConv(width, 2 * width, precision, rngs) if time else None

    def __call__(
        self, x: Float[Array, "B F Y X C"], past: Cache = None
    ) -> tuple[Float[Array, "B _ _ _ O"], Cache]:
        if self.time is not None:
            # The first frame of all is not seen here: the second has only zeros before it.
            alone, x = (x[:, :1], x[:, 1:]) if past is None else (x[:, :0], x)
            x = _after(past, x)
            past = x[:, -2:]
            doubled = rearrange(self.time(x), "B F Y X (t C) -> B (F t) Y X C", t=2)
            x = jnp.concatenate([alone, doubled], axis=1)
        return self.space(x), past
