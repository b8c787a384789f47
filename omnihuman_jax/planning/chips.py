"""The only place that says what a chip is: memory, speeds, links, hosts; each figure with its source.

Peaks are those of `training.flops.PEAKS`. The pages of docs.cloud.google.com/tpu/docs, read 2026-11:
v4, v5e, v5p-training, v6e, tpu7x. What a page does not say is marked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from omnihuman_jax.ahead import SLICES
from omnihuman_jax.errors import InputError
from omnihuman_jax.training.flops import PEAKS

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One generation, by JAX device (a tpu7x chip is two).

    Attributes:
        kind: its `device_kind`.
        hbm: bytes of memory of a device.
        bandwidth: of that memory, bytes a second.
        link: bytes a second that one link carries one way.
        cores: that share a device's work (megacore: 2).
        devices: of a chip.
        chips: of a host.
        used: of `hbm`, what the compiler gives to a program; the rest it keeps.
    """

    name: str
    kind: str
    hbm: float
    bandwidth: float
    link: float
    cores: int = 1
    devices: int = 1
    chips: int = 4
    used: float = 31.25 / 32  # v6e: "Used 41.28G of 31.25G hbm", libtpu 0.0.50.1

    @property
    def peak(self) -> float:
        """Dense bfloat16 operations a second."""
        return PEAKS[self.kind]

    @property
    def clock(self) -> float:
        """Cycles a second of a core, as its peak says: two units of 256 x 256 or eight of 128 x 128.

        In operations a cycle 524,288 on v6e and tpu7x and 131,072 on the others
        (benchmarks/attention_tpu.py).
        """
        wide = self.name in ("v6e", "tpu7x")
        return self.peak / self.cores / (524_288 if wide else 131_072)


CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        # The page has no rate of links: 1.1 PB/s of all-reduce in a pod of 4096 chips with 6 links.
        Chip(
            name="v4", kind="TPU v4", hbm=32 * GIB, bandwidth=1200e9, link=1.1e15 / 4096 / 6, cores=2
        ),
        # 400 GB/s both ways over 4 links.
        Chip(name="v5e", kind="TPU v5 lite", hbm=16 * GIB, bandwidth=819e9, link=50e9, chips=8),
        # 1200 GB/s both ways over 6 links.
        Chip(name="v5p", kind="TPU v5", hbm=95 * GIB, bandwidth=2765e9, link=100e9, cores=2),
        # 800 GB/s both ways over 4 links.
        Chip(name="v6e", kind="TPU v6 lite", hbm=32 * GIB, bandwidth=1638e9, link=100e9, chips=8),
        # 192 GiB a chip of two devices. The rates of memory (7380 GB/s a chip) and links (1200 GB/s
        # both ways over 6) are from memory and were not verified here.
        Chip(
            name="tpu7x", kind="TPU7x", hbm=96 * GIB, bandwidth=3690e9, link=100e9, devices=2
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """A slice by Cloud TPU's name or a topology: how many devices, chips and hosts of which chip."""

    name: str
    chip: Chip
    devices: int

    @property
    def chips(self) -> int:
        return self.devices // self.chip.devices

    @property
    def hosts(self) -> int:
        return -(-self.chips // self.chip.chips)


def slice_of(name: str) -> Slice:
    """The slice of that name, without asking the compiler.

    Raises:
        InputError: no such slice.
    """
    generation, _, sizes = SLICES.get(name, name).partition(":")
    chip = CHIPS.get(generation)
    try:
        edges = [int(edge) for edge in sizes.split("x")]
    except ValueError:
        edges = []
    if chip is None or len(edges) not in (2, 3) or min(edges) < 1:
        raise InputError(
            f"There is no TPU slice {name}; known are {', '.join(SLICES)}, or a topology such as "
            "v5p:4x4x8."
        )
    count = chip.devices
    for edge in edges:
        count *= edge
    return Slice(name, chip, count)
