"""The only place that turns what a program has to do into seconds: by schedule, roofline and links.

A step is the sum of what runs one after the other: matrix products, memory traffic beside them, attention
kernels, collectives that nothing hides; and the wait for data where reading takes longer than all of it.

What to expect of it: nothing is waited for but what is named here, so a real step is rather longer. Where
it could be compared (`python -m benchmarks.plan`), a step really took 0.9 (H100) to 1.45 times (v5p) as long.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from omnihuman_jax.attention import tiles
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models.building import Remat
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.planning.chips import Chip, Slice
from omnihuman_jax.planning.reading import Kernel, Reading, Sent
from omnihuman_jax.training.flops import Flops

# Of the peak, what matrix products reach with what is fused into them. The compiler's own cycles say 0.5
# for the 1.3B step on v6e-4 (1536 wide); measured for Wan's linear layers on v6e, 14B, is 0.66
# (research/jax_stack.md 2.2, the torchax guide).
MATMUL = 0.6
# Of HBM's bandwidth, what all other operations reach: their bytes in the 1.3B step on v6e-4 take 0.38 s at
# the full rate, and 1.12 s by the compiler's own cycles (arithmetic and changes of layout).
STREAM = 0.34
# Of a kernel's static speed, what is measured: tokamax splash on tpu7x 34 % of the peak where its schedule
# says 40 %, torchax splash on v6e 37 % where JAX splash's says 36 % (jax_stack.md 2.2, DESIGN 9).
KERNEL = 0.9
# Bytes a second that one host reads, checks and hands over. Assumed: half of what two threads of machine A
# read from a local GCS server (benchmarks/RESULTS.md).
READING = 1e9
# Of every operation, to begin and end: the compiler's own cycles of a step of `mini` on v6e-4, whose 3,659
# operations have next to nothing to do, are 3.61 ms.
BEGIN = 1e-6
# Times that a layer's activations pass through HBM in a training step, in bfloat16, beside its matrix
# products: what the compiler's program of the 1.3B step on v6e-4 moves, remat="attention"; where devices
# share a clip's tokens it is more (270 in the 14B step on v6e-256).
PASSES = 190.0
BACKWARD = 2.5  # products of attention's backward pass over those of its forward pass
AGAIN = ("full", "dots")  # what computes long attention a second time


@dataclass(frozen=True)
class Seconds:
    """A step by part."""

    matmul: float
    memory: float
    attention: float
    exposed: float
    input: float = 0.0

    @property
    def computing(self) -> float:
        return self.matmul + self.memory + self.attention + self.exposed

    @property
    def step(self) -> float:
        """`input` is what reading a batch takes; it goes on beside the step before."""
        return max(self.computing, self.input)

    def parts(self) -> dict[str, float]:
        """By name, the wait for data in place of the time that reading takes."""
        return asdict(self) | {"input": max(0.0, self.input - self.computing)}


def of_program(reading: Reading, slice_: Slice, read: float = 0.0) -> Seconds:
    """Of a compiled program.

    Args:
        read: bytes of a batch, all hosts together.
    """
    chip = slice_.chip
    matmul = memory = 0.0
    for work in reading.work:
        stream = work.bytes / chip.bandwidth
        if work.flops:
            matmul += work.times * max(work.flops / (chip.peak * MATMUL), stream, BEGIN)
        else:
            memory += work.times * max(stream / STREAM, BEGIN)
    return Seconds(
        matmul=matmul,
        memory=memory,
        attention=sum(kernel_seconds(kernel, chip) for kernel in reading.kernels),
        exposed=sum(sent_seconds(sent, slice_) for sent in reading.sent if sent.exposed),
        input=read / slice_.hosts / READING,
    )


def kernel_seconds(kernel: Kernel, chip: Chip) -> float:
    """All calls of an attention kernel; the cores of a megacore share the heads."""
    given = (chip.kind, kernel.queries, kernel.keys, kernel.width, kernel.pass_)
    cycles = tiles.cycles(*given) or 0.0
    return kernel.times * kernel.heads * cycles / (chip.clock * chip.cores * KERNEL)


def sent_seconds(sent: Sent, slice_: Slice) -> float:
    """All runs of a collective, on a ring with links both ways: two, or four if all devices take part.

    A ring of n passes on (n - 1) / n of what is gathered, scattered or reduced, twice to reduce for all;
    what is exchanged between all goes n / 4 links far on average.
    """
    n, size = sent.among, float(sent.bytes)
    if n <= 1:
        return sent.times * size / slice_.chip.link if sent.kind == "collective-permute" else 0.0
    rate = slice_.chip.link * (4 if n == slice_.devices and n > 4 else 2)
    moved: Mapping[str, float] = {
        "all-gather": size * (n - 1) / n,
        "reduce-scatter": size * (n - 1),
        "all-reduce": 2 * size * (n - 1) / n,
        "all-to-all": size * max(1.0, n / 4) * (n - 1) / n,
        "collective-permute": 2 * size,
    }
    return sent.times * moved[sent.kind] / rate


@dataclass(frozen=True)
class Rates:
    """What a device does, for an estimate without a compiler: operations and bytes a second."""

    peak: float
    bandwidth: float
    forward: float
    backward: float


def rates(chip: Chip, length: int, width: int) -> Rates:
    """Of a TPU, its attention as the schedules of our kernels say at that length."""

    def speed(pass_: str, products: int) -> float:
        cycles = tiles.cycles(chip.kind, length, length, width, pass_) or 1.0
        return products * 2.0 * length**2 * width / cycles * chip.clock * chip.cores * KERNEL

    return Rates(chip.peak, chip.bandwidth, speed("forward", 2), speed("backward", 5))


def by_hand(
    work: Flops, network: DiTConfig, grid: Grid, remat: Remat, rates: Rates, clips: float
) -> Seconds:
    """The computing of a training step with so many clips on a device, a part of one where several share it.

    The same sums as `of_program` from the network's sizes alone: no collectives, no padding.
    """
    scores = clips * work.scores
    again = scores if remat in AGAIN else 0.0
    linear = clips * (work.hardware(remat) - 3 * work.scores) - again
    passes = PASSES * network.layers * grid.tokens * network.width * 2
    return Seconds(
        matmul=linear / (rates.peak * MATMUL),
        memory=clips * passes / (rates.bandwidth * STREAM),
        attention=(scores + again) / rates.forward + BACKWARD * scores / rates.backward,
        exposed=0.0,
    )


def batch_bytes(network: DiTConfig, grid: Grid, clips: int) -> float:
    """Bytes of a batch as records hold it: latents, reference, text, sound, keypoints."""
    frames, height, width = grid.latent_shape
    latents = (frames + 1) * height * width * network.channels * 2
    text = network.text_length * network.text_width * 2
    audio = network.audio.layers * network.audio.width * grid.frames * 2 if network.audio else 0
    pose = network.pose.joints * 3 * grid.frames * 2 if network.pose else 0
    return float(clips * (latents + text + audio + pose))
