"""The only place that reads off a scheduled program what its operations have to do.

The text is that of the TPU compiler after buffer assignment: every operation, loop and collective is
there, and where each array lies, on the chip or in HBM; what is missing is only the machine code.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omnihuman_jax import ahead

# Operations that move or compute nothing by themselves.
FREE = frozenset(
    {
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "custom-call"),
        *("while", "conditional", "call", "after-all", "partition-id", "replica-id"),
    }
)
SLICES = ("dynamic-slice", "slice", "gather")
_SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\](\{[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)(?:#(\d+))?")
_CALLS = re.compile(r"\bcalls=%([\w.\-]+)")
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->(\w+)")
_SIZE = re.compile(r"\bsize=([\dx]+)")
_DILATED = re.compile(r"lhs_dilate=([\dx]+)")
_GROUPS = re.compile(r"replica_groups=(\[\d+,(\d+)\]|mesh\[([^\]]*)\] \{([^}]*)\}|\{\{([\d,]*)\})")
_OPERANDS = re.compile(r"operand_layout_constraints=\{(.*?)\}, (?:frontend|metadata|backend)")


@dataclass(frozen=True)
class Work:
    """An operation, run so many times: floating-point operations of its matrix products, bytes of HBM."""

    times: float
    flops: float
    bytes: int


@dataclass(frozen=True)
class Kernel:
    """One of our attention kernels: which pass, how many queries and keys it sees, padding with them."""

    times: float
    pass_: str
    heads: int  # and clips
    queries: int
    keys: int
    width: int


@dataclass(frozen=True)
class Sent:
    """A collective: bytes of its result, among how many devices, and whether nothing runs beside it."""

    times: float
    kind: str
    bytes: int
    among: int
    exposed: bool


@dataclass(frozen=True)
class Reading:
    """All that a device does in one run of the program."""

    work: tuple[Work, ...]
    kernels: tuple[Kernel, ...]
    sent: tuple[Sent, ...]

    @property
    def flops(self) -> float:
        """Of matrix products and convolutions, without our kernels."""
        return sum(work.times * work.flops for work in self.work)


@dataclass(frozen=True)
class _Said:
    """An instruction: the type of its result, its name, its operands, and all of its text."""

    type: str
    opcode: str
    operands: tuple[tuple[str, int | None], ...]
    text: str


def mixed(readings: Sequence[tuple[Reading, float]]) -> Reading:
    """The average of several programs, each with its share of the runs."""

    def share(each: Any, part: float) -> Any:
        return replace(each, times=each.times * part)

    return Reading(
        work=tuple(share(w, part) for reading, part in readings for w in reading.work),
        kernels=tuple(share(k, part) for reading, part in readings for k in reading.kernels),
        sent=tuple(share(s, part) for reading, part in readings for s in reading.sent),
    )


def read(text: str) -> Reading:
    """What a scheduled program does, loops as often as they run."""
    program = _Program(text)
    work: dict[tuple[float, int], int] = {}
    kernels, sent = [], []
    for name, times in program.repeats.items():
        lines = program.lines.get(name, ())
        for place, (instruction, said) in enumerate(lines):
            if (kernel := _kernel(said, times)) is not None:
                kernels.append(kernel)
                continue
            kind, asynchronous = ahead.kind_of(said, program.lines)
            if kind is not None:
                exposed = not (asynchronous and ahead.hidden(lines, place, instruction))
                size = ahead.size_of(said, asynchronous)
                sent.append(Sent(times, kind, size, program.among(said), exposed))
                continue
            cost = program.cost(name, instruction)
            if cost is not None:
                work[cost] = work.get(cost, 0) + times
    done = tuple(Work(times, *cost) for cost, times in sorted(work.items()))
    return Reading(done, tuple(kernels), tuple(sent))


class _Program:
    """The instructions of a program by computation and name."""

    def __init__(self, text: str) -> None:
        self.lines: Mapping[str, Sequence[tuple[str, str]]] = ahead.parsed(text)
        self.repeats = ahead.repeats(self.lines)
        self._known: dict[str, dict[str, _Said]] = {}

    def of(self, computation: str) -> Mapping[str, _Said]:
        if computation not in self._known:
            lines = self.lines.get(computation, ())
            self._known[computation] = {name: _taken_apart(said) for name, said in lines}
        return self._known[computation]

    def cost(self, computation: str, instruction: str) -> tuple[float, int] | None:
        """Floating-point operations and bytes of HBM of one instruction; None for one that does nothing."""
        said = self.of(computation)[instruction]
        if said.opcode in FREE or said.opcode.endswith(("-done", "-update", "-start")):
            return None
        called = _CALLS.search(said.text)
        if said.opcode != "fusion" or called is None:
            return self._flops(computation, said), self._moved(computation, said)
        inner = called[1]
        sizes = [self._size(computation, operand) for operand in said.operands]
        read = sum(self._read(inner, i, size) for i, size in enumerate(sizes) if size)
        return self._inside(inner), read + self._written(inner, said.type)

    def _moved(self, computation: str, said: _Said) -> int:
        """Bytes of HBM that an operation that is no fusion reads and writes."""
        written = held(said.type)
        if said.opcode in SLICES:
            return written + min(written, self._size(computation, said.operands[0]))
        if said.opcode == "dynamic-update-slice":
            return 2 * self._size(computation, said.operands[1])
        return written + sum(self._size(computation, operand) for operand in said.operands)

    def _inside(self, computation: str) -> float:
        """Floating-point operations in a fused computation."""
        total = 0.0
        for said in self.of(computation).values():
            called = _CALLS.search(said.text) if said.opcode == "fusion" else None
            total += self._inside(called[1]) if called else self._flops(computation, said)
        return total

    def _flops(self, computation: str, said: _Said) -> float:
        """2 a multiplication of a convolution, which is what matrix products are here."""
        labels = _LABELS.search(said.text)
        if said.opcode != "convolution" or labels is None:
            return 0.0
        kernel = dims(self._type(computation, said.operands[1]))
        count = 2.0 * product(dims(said.type)) * product(kernel) / kernel[labels[1].index("o")]
        # A product in batches is written as a window over the batch, most of which is dilation's zeros.
        dilated, size = _DILATED.search(said.text), _SIZE.search(said.text)
        if dilated and size:
            for window, spread in zip(size[1].split("x"), dilated[1].split("x"), strict=True):
                count /= min(int(window), int(spread))
        return count

    def _size(self, computation: str, operand: tuple[str, int | None]) -> int:
        return held(self._type(computation, operand))

    def _type(self, computation: str, operand: tuple[str, int | None]) -> str:
        name, place = operand
        said = self.of(computation).get(name)
        if said is None:
            return ""
        if place is None:
            return said.type
        arrays = [match[0] for match in _SHAPE.finditer(said.type)]
        return arrays[place] if place < len(arrays) else said.type

    def _read(self, computation: str, index: int, size: int) -> int:
        """Of `size` bytes of a fusion's operand, those that it reads: a slice of it, or all."""
        own = self.of(computation)
        ends = f"parameter({index})"
        name = next((n for n, said in own.items() if ends in said.text), None)
        if name is None:
            return size
        total = 0
        for said in own.values():
            places = [i for i, operand in enumerate(said.operands) if operand[0] == name]
            for place in places:
                called = _CALLS.search(said.text) if said.opcode == "fusion" else None
                if said.opcode in SLICES and place == 0:
                    total += _bytes(said.type)
                elif said.opcode == "dynamic-update-slice" and place == 0:
                    continue
                elif called:
                    total += self._read(called[1], place, size)
                else:
                    return size
        return min(total, size)

    def _written(self, computation: str, type_: str) -> int:
        """Bytes that a fusion writes: the part that it changes, where it changes one in place."""
        last = list(self.of(computation).items())[-1][1]
        if last.opcode == "bitcast" and last.operands:
            last = self.of(computation).get(last.operands[0][0], last)
        called = _CALLS.search(last.text) if last.opcode == "fusion" else None
        if called:
            return self._written(called[1], type_)
        if last.opcode == "dynamic-update-slice" and held(type_):
            return _bytes(self._type(computation, last.operands[1]))
        if last.opcode == "tuple":
            return sum(self._part(computation, name, arr) for name, arr in _parts(last, type_))
        return held(type_)

    def _part(self, computation: str, name: str, array: str) -> int:
        said = self.of(computation).get(name)
        if said is not None and said.opcode == "dynamic-update-slice" and held(array):
            return _bytes(self._type(computation, said.operands[1]))
        return held(array)

    def among(self, said: str) -> int:
        """How many devices take part in a collective."""
        match = _GROUPS.search(said)
        if match is None:
            called = _CALLS.search(said)
            inner = self.lines.get(called[1], ()) if called else ()
            return max((self.among(text) for _, text in inner), default=1)
        if match[2]:
            return int(match[2])
        if match[3]:
            sizes = dict(part.replace("'", "").split("=") for part in match[3].split(","))
            return product(int(sizes[axis.strip(" '")]) for axis in match[4].split(","))
        return match[5].count(",") + 1


def held(type_: str) -> int:
    """Bytes of the arrays of a type that lie in HBM."""
    return sum(_bytes(match[0]) for match in _SHAPE.finditer(type_) if "S(" not in (match[3] or ""))


def dims(type_: str) -> list[int]:
    """Of the first array of a type."""
    match = _SHAPE.search(type_)
    return [int(n) for n in filter(None, match[2].split(","))] if match else []


def product(numbers: Iterator[int] | Sequence[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def _bytes(type_: str) -> int:
    match = _SHAPE.search(type_)
    if match is None:
        return 0
    bits = {"pred": 8, "bf16": 16}.get(match[1]) or int(re.sub(r"\D", "", match[1][:3]) or 8)
    return product(dims(type_)) * bits // 8


def _parts(last: _Said, type_: str) -> list[tuple[str, str]]:
    arrays = [match[0] for match in _SHAPE.finditer(type_)]
    return list(zip((name for name, _ in last.operands), arrays, strict=False))


def _kernel(said: str, times: int) -> Kernel | None:
    """The attention kernel that an instruction calls, if it does."""
    if "tpu_custom_call" not in said:
        return None
    pass_ = next((p for p in ("forward", "backward", "tangent") if f"flash_{p}" in said), None)
    given = _OPERANDS.search(said)
    shapes = [dims(match[0]) for match in _SHAPE.finditer(given[1])] if given else []
    wide = [shape for shape in shapes if len(shape) == 4 and shape[2] > 1]  # no log-sum-exp
    if pass_ is None or not wide:
        return None
    batch, heads, queries, width = wide[0]
    keys = wide[2 if pass_ == "backward" else 1][2]
    return Kernel(times, pass_, batch * heads, queries, keys, width)


def _taken_apart(said: str) -> _Said:
    """An instruction's text in pieces."""
    type_ = ahead.result_of(said)
    rest = said[len(type_) :].strip()
    opcode, _, given = rest.partition("(")
    # Up to the bracket that closes the operands, with which a result's type could begin as well.
    found = _NAME.findall(ahead.result_of(f"({given}"))
    operands = tuple((name, int(place) if place else None) for name, place in found)
    return _Said(type_, opcode, operands, rest)
