"""How large a piece of attention a TPU works on at a time; made by `python -m benchmarks.tune_tiles`."""

from typing import NamedTuple

LANES = 128  # numbers in a row of a TPU's vector register; tiles are multiples of it


class Tiles(NamedTuple):
    """Rows of one grid step of a kernel, and of one piece of its arithmetic.

    Attributes:
        queries: of a tile.
        keys: of a tile.
        compute: keys multiplied at once; divides `keys`.
        resident: MiB for the gradients of queries that stay on the chip in the backward pass.
        vmem: MiB that the kernel may use.
    """

    queries: int
    keys: int
    compute: int
    resident: int = 4
    vmem: int = 15


# Compiles for every generation since v4.
SAFE = {
    "forward": Tiles(512, 512, 256),
    "backward": Tiles(256, 512, 256),
    "tangent": Tiles(256, 512, 256),
}

# By the name in `device_kind`, at head width 128 in bfloat16. Made from counts of instructions.
TABLE: dict[str, dict[str, Tiles]] = {}


def tiles(device_kind: str, length: int, keys: int, width: int, pass_: str) -> Tiles:
    """The tiles for a pass ("forward", "backward", "tangent"), no larger than the sequences.

    Args:
        width: head width; the table is for up to 128, a wider head gets the safe tiles.
    """
    found = TABLE.get(device_kind, SAFE) if width <= LANES else SAFE
    return fit(found[pass_], length, keys)


def fit(tile: Tiles, length: int, keys: int) -> Tiles:
    """The tile, cut to sequences that are shorter than it."""
    queries, rows = (-(-n // LANES) * LANES for n in (length, keys))
    if rows >= tile.keys:
        return tile._replace(queries=min(tile.queries, queries))
    compute = next(
        c for c in (tile.compute, 512, 256, LANES) if c <= tile.compute and rows % c == 0
    )
    return tile._replace(queries=min(tile.queries, queries), keys=rows, compute=compute)
