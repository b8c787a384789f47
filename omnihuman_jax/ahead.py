"""The only place that asks the TPU compiler about chips that are not there.

JAX compiles for a described topology on any machine that has libtpu (`pip install jax[tpu]`): true
memory, true out-of-memory errors, and the final program with its collectives in the order they run.
"""

import contextlib
import glob
import importlib.metadata
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omnihuman_jax.errors import InputError

GENERATIONS = ("v4", "v5e", "v5p", "v6e", "tpu7x")
# Cloud TPU's names -> topology. v4 and v5p count cores (2 a chip), v5e and v6e chips.
SLICES: Mapping[str, str] = {
    "v4-8": "v4:2x2x1",
    "v4-64": "v4:2x4x4",
    "v5litepod-1": "v5e:1x1",
    "v5litepod-4": "v5e:2x2",
    "v5litepod-16": "v5e:4x4",
    "v5litepod-64": "v5e:8x8",
    "v5litepod-256": "v5e:16x16",
    "v5p-8": "v5p:2x2x1",
    "v5p-32": "v5p:2x2x4",
    "v5p-64": "v5p:2x4x4",
    "v5p-128": "v5p:4x4x4",
    "v5p-256": "v5p:4x4x8",
    "v6e-1": "v6e:1x1",
    "v6e-4": "v6e:2x2",
    "v6e-8": "v6e:2x4",
    "v6e-16": "v6e:4x4",
    "v6e-64": "v6e:8x8",
    "v6e-256": "v6e:16x16",
    "tpu7x-8": "tpu7x:2x2x1",
}
# libtpu looks for chips when it is loaded; these say that there are none to look for.
NO_CHIPS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
GOOGLE = "0x1ae0"  # its number as a maker of PCI devices
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def say_if_no_chips() -> None:
    """Where no TPU is, tell libtpu, which else looks for one and complains. Before JAX is first used."""
    if not _may_have_chips():
        for name, value in NO_CHIPS.items():
            os.environ.setdefault(name, value)


def _may_have_chips() -> bool:
    """Whether anything of Google's is plugged in: a chip, or a card of a cloud machine that may have some."""
    if glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"):
        return True
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        with contextlib.suppress(OSError):
            if vendor.read_text().strip() == GOOGLE:
                return True
    return False


def devices(slice_name: str) -> list[Any]:
    """The described devices of a slice: "v5p-256" as Cloud TPU names it, or a topology "v5p:4x4x8".

    Raises:
        InputError: no such slice, or libtpu is not installed.
    """
    from jax.experimental import topologies

    say_if_no_chips()
    topology = SLICES.get(slice_name, slice_name)
    options = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as why:  # jaxlib raises many kinds
        known = ", ".join(SLICES)
        raise InputError(
            f"There is no TPU slice {slice_name} here ({str(why).splitlines()[0]}); known are {known}, "
            "or a topology such as v5p:4x4x8. The compiler comes with `pip install jax[tpu]`."
        ) from why
    return list(found.devices)


def version() -> str | None:
    """The compiler's version, or None if it is not installed."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Traffic:
    """The collectives of one kind in a compiled program, loops counted as often as they run.

    Attributes:
        count: how many are run.
        bytes: what one device receives, all together.
        exposed: how many have no computation between their start and their end.
        exposed_bytes: bytes of these.
    """

    count: int = 0
    bytes: int = 0
    exposed: int = 0
    exposed_bytes: int = 0

    def more(self, count: int, size: int, exposed: bool) -> "Traffic":
        """With another collective that is run `count` times."""
        hidden = 0 if exposed else 1
        return Traffic(
            self.count + count,
            self.bytes + count * size,
            self.exposed + count * (1 - hidden),
            self.exposed_bytes + count * size * (1 - hidden),
        )


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program on one device.

    Attributes:
        seconds: that compiling took.
        peak, arguments, temporaries: bytes.
        cycles: the compiler's own estimate of all that it compiled itself: no kernels of ours, no
            collectives.
        traffic: by kind of collective.
        text: the scheduled program.
    """

    seconds: float
    peak: int
    arguments: int
    temporaries: int
    cycles: int
    traffic: Mapping[str, Traffic]
    text: str = field(repr=False)


def compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> Compiled:
    """Compile for the devices on which the abstract arguments lie (their shardings say it).

    Args:
        options: of `jax.jit`.

    Raises:
        jax.errors.JaxRuntimeError: with RESOURCE_EXHAUSTED, if it does not fit.
    """
    import jax

    began = time.perf_counter()
    program = jax.jit(function, **options).lower(*arguments).compile()
    seconds = time.perf_counter() - began
    memory, text = cast(Any, program.memory_analysis()), cast(str, program.as_text())
    return Compiled(
        seconds=seconds,
        peak=memory.peak_memory_in_bytes,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        cycles=cycles(text),
        traffic=collectives(text),
        text=text,
    )


_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_LOOP = re.compile(r"\bwhile\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CONSTANT = re.compile(r"\bconstant\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLS = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r" conditional\(.*branch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_WIDTH = {"pred": 8, "bf16": 16}
_WORK = re.compile(r"\b(fusion|custom-call|convolution|dot|while)\(")


def collectives(text: str) -> dict[str, Traffic]:
    """Count the collectives of a scheduled HLO program, by kind."""
    computations = parsed(text)
    runs = repeats(computations)
    found = {kind: Traffic() for kind in KINDS}
    for name, lines in computations.items():
        if not (times := runs.get(name, 0)):
            continue
        for place, (instruction, said) in enumerate(lines):
            kind, asynchronous = kind_of(said, computations)
            if kind is None:
                continue
            exposed = not (asynchronous and hidden(lines, place, instruction))
            found[kind] = found[kind].more(times, size_of(said, asynchronous), exposed)
    return {kind: traffic for kind, traffic in found.items() if traffic.count}


def cycles(text: str) -> int:
    """The compiler's estimate for all instructions of a scheduled HLO program, loops as often as they run."""
    computations = parsed(text)
    runs = repeats(computations)
    return sum(
        runs[name] * sum(int(n) for _, said in lines for n in _CYCLES.findall(said))
        for name, lines in computations.items()
        if name in runs
    )


def parsed(text: str) -> dict[str, list[tuple[str, str]]]:
    """Name of each computation -> its instructions in order: name, and what it says."""
    found: dict[str, list[tuple[str, str]]] = {}
    lines: list[tuple[str, str]] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = found[f"{'ENTRY ' if line.startswith('ENTRY') else ''}{match[1]}"] = []
        elif match := _INSTRUCTION.match(line):
            lines.append((match[1], match[2]))
    return found


def repeats(computations: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, int]:
    """How often each computation is run: the entry once, a loop's body as often as it goes round.

    Of a condition's branches the last one counts, that of "true".
    """
    runs: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        runs[name] = runs.get(name, 0) + times
        for _, said in computations.get(name, ()):
            if match := _LOOP.search(said):
                visit(match[2], times * _rounds(computations.get(match[1], ())))
            elif match := _BRANCHES.search(said):
                visit(match[1].split(",")[-1].strip(" %"), times)
            elif " call(" in said:
                for called in _CALLS.findall(said):
                    visit(called, times)

    entry = next(name for name in computations if name.startswith("ENTRY "))
    visit(entry, 1)
    return runs


def _rounds(condition: Sequence[tuple[str, str]]) -> int:
    """How often a loop goes round: the number that its condition compares with."""
    return max((int(n) for _, said in condition for n in _CONSTANT.findall(said)), default=1)


def kind_of(
    said: str, computations: Mapping[str, Sequence[tuple[str, str]]]
) -> tuple[str | None, bool]:
    """Which collective an instruction is or starts, and whether it goes on beside others."""
    for kind in KINDS:
        if f" {kind}-start(" in said:
            return kind, True
        if f" {kind}(" in said:
            return kind, False
    if " async-start(" in said or " fusion(" in said:
        match = _CALLS.search(said)
        if match and "reduce-scatter" in match[1]:  # an all-reduce of which each keeps its part
            return "reduce-scatter", " async-start(" in said
        for _, inner in computations.get(match[1], ()) if match else ():
            found, _ = kind_of(inner, {})
            if found is not None:
                return found, " async-start(" in said
    return None, False


def hidden(lines: Sequence[tuple[str, str]], start: int, name: str) -> bool:
    """Whether anything is computed between the start of a collective and its end."""
    chain = {name}
    for instruction, said in lines[start + 1 :]:
        own = any(re.search(rf"%?{re.escape(link)}\b", said) for link in chain)
        if own and "-done(" in said:
            return False
        if own and "-update(" in said:
            chain.add(instruction)
        elif _WORK.search(said) and not own:
            return True
    return False


def size_of(said: str, asynchronous: bool) -> int:
    """Bytes of the result; that of an asynchronous one is the largest array of its tuple."""
    sizes = []
    for dtype, dims in _SHAPE.findall(result_of(said)):
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        bits = _WIDTH.get(dtype) or int(re.sub(r"\D", "", dtype[:3]) or 8)
        sizes.append(count * bits // 8)
    if not sizes:
        return 0
    return max(sizes) if asynchronous else sum(sizes)


def result_of(said: str) -> str:
    """The type of an instruction's result: all that stands before its name."""
    if not said.startswith("("):
        return said.split(" ", 1)[0]
    depth = 0
    for end, letter in enumerate(said):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return said[: end + 1]
    return said
