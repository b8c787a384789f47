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

# By the name in `device_kind`, at head width 128 in bfloat16: cycles for 1024 x 1024 scores, and tiles.
# libtpu 0.0.50.1.
TABLE: dict[str, dict[str, tuple[tuple[int, Tiles], ...]]] = {
    "TPU v4": {
        "forward": (
            (8184, Tiles(512, 512, 256, 5, 16)),
            (6190, Tiles(512, 1024, 512, 5, 16)),
            (5338, Tiles(1024, 2048, 512, 5, 16)),
        ),
        "backward": (
            (27020, Tiles(512, 512, 256, 5, 16)),
            (25078, Tiles(512, 1024, 1024, 5, 16)),
        ),
        "tangent": (
            (18404, Tiles(512, 512, 256, 5, 16)),
            (16088, Tiles(512, 1024, 512, 5, 16)),
            (15193, Tiles(512, 2048, 512, 5, 16)),
        ),
    },
    "TPU v5 lite": {
        "forward": (
            (7492, Tiles(512, 512, 256, 36, 110)),
            (5538, Tiles(512, 1024, 512, 36, 110)),
            (4482, Tiles(1024, 2048, 256, 36, 110)),
            (4321, Tiles(1024, 4096, 256, 36, 110)),
            (4248, Tiles(2048, 4096, 512, 36, 110)),
        ),
        "backward": (
            (13224, Tiles(512, 512, 256, 36, 110)),
            (12190, Tiles(512, 1024, 512, 36, 110)),
            (11287, Tiles(2048, 512, 256, 36, 110)),
            (10879, Tiles(2048, 1024, 256, 36, 110)),
        ),
        "tangent": (
            (15644, Tiles(512, 512, 256, 36, 110)),
            (14096, Tiles(512, 1024, 512, 36, 110)),
            (13322, Tiles(512, 2048, 512, 36, 110)),
            (12999, Tiles(1024, 2048, 512, 36, 110)),
        ),
    },
    "TPU v5": {
        "forward": (
            (7660, Tiles(512, 512, 256, 20, 60)),
            (5556, Tiles(512, 1024, 512, 20, 60)),
            (4437, Tiles(1024, 2048, 512, 20, 60)),
            (4266, Tiles(1024, 4096, 512, 20, 60)),
            (4212, Tiles(2048, 4096, 256, 20, 60)),
        ),
        "backward": (
            (13220, Tiles(512, 512, 256, 20, 60)),
            (12122, Tiles(512, 1024, 512, 20, 60)),
            (11283, Tiles(1024, 1024, 512, 20, 60)),
            (10865, Tiles(2048, 1024, 256, 20, 60)),
        ),
        "tangent": (
            (15752, Tiles(512, 512, 256, 20, 60)),
            (14020, Tiles(512, 1024, 256, 20, 60)),
            (13146, Tiles(512, 2048, 256, 20, 60)),
            (12913, Tiles(1024, 2048, 256, 20, 60)),
        ),
    },
    "TPU v6 lite": {
        "forward": (
            (5592, Tiles(512, 512, 256, 36, 110)),
            (3492, Tiles(512, 1024, 512, 36, 110)),
            (1996, Tiles(1024, 2048, 1024, 36, 110)),
            (1898, Tiles(1024, 4096, 512, 36, 110)),
            (1865, Tiles(2048, 4096, 512, 36, 110)),
        ),
        "backward": (
            (7288, Tiles(512, 512, 256, 36, 110)),
            (6244, Tiles(512, 1024, 256, 36, 110)),
            (5570, Tiles(1024, 1024, 512, 36, 110)),
            (5232, Tiles(2048, 1024, 256, 36, 110)),
        ),
        "tangent": (
            (7488, Tiles(512, 512, 256, 36, 110)),
            (5286, Tiles(512, 1024, 512, 36, 110)),
            (4629, Tiles(512, 2048, 512, 36, 110)),
            (4302, Tiles(1024, 2048, 512, 36, 110)),
        ),
    },
    "TPU7x": {
        "forward": (
            (5452, Tiles(512, 512, 256, 18, 56)),
            (3322, Tiles(512, 1024, 512, 18, 56)),
            (1947, Tiles(1024, 2048, 1024, 18, 56)),
            (1770, Tiles(1024, 4096, 1024, 18, 56)),
            (1701, Tiles(2048, 4096, 512, 18, 56)),
        ),
        "backward": (
            (7364, Tiles(512, 512, 256, 18, 56)),
            (6248, Tiles(512, 1024, 256, 18, 56)),
            (5620, Tiles(1024, 1024, 512, 18, 56)),
            (5286, Tiles(2048, 1024, 256, 18, 56)),
        ),
        "tangent": (
            (7396, Tiles(512, 512, 256, 18, 56)),
            (5228, Tiles(512, 1024, 512, 18, 56)),
            (4513, Tiles(512, 2048, 512, 18, 56)),
            (4286, Tiles(1024, 2048, 512, 18, 56)),
        ),
    },
}


def tiles(device_kind: str, length: int, keys: int, width: int, pass_: str) -> Tiles:
    """The cheapest tiles for a pass ("forward", "backward", "tangent"), padding counted.

    Args:
        width: head width; the table is for up to 128, a wider head gets the safe tiles.
    """
    known = TABLE.get(device_kind, {}) if width <= LANES else {}

    def cost(row: tuple[int, Tiles]) -> int:
        tile = fit(row[1], length, keys)
        return row[0] * _padded(length, tile.queries) * _padded(keys, tile.keys)

    return fit(min(known.get(pass_, ((1, SAFE[pass_]),)), key=cost)[1], length, keys)


def cycles(device_kind: str, length: int, keys: int, width: int, pass_: str) -> float | None:
    """What a pass takes by the table, of one head and one core; None for chips that are not in it.

    A head wider or narrower than 128 is taken for one that fills whole units.
    """
    rows = TABLE.get(device_kind, {}).get(pass_)
    if rows is None:
        return None

    def cost(row: tuple[int, Tiles]) -> float:
        tile = fit(row[1], length, keys)
        return row[0] * _padded(length, tile.queries) * _padded(keys, tile.keys) / 2**20

    return min(map(cost, rows)) * _padded(width, LANES) / LANES


def fit(tile: Tiles, length: int, keys: int) -> Tiles:
    """The tile, cut to sequences that are shorter than it."""
    queries, rows = (_padded(n, LANES) for n in (length, keys))
    if rows >= tile.keys:
        return tile._replace(queries=min(tile.queries, queries))
    compute = next(
        c for c in (tile.compute, 512, 256, LANES) if c <= tile.compute and rows % c == 0
    )
    return tile._replace(queries=min(tile.queries, queries), keys=rows, compute=compute)


def _padded(length: int, tile: int) -> int:
    return -(-length // tile) * tile
