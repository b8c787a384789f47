"""The only place that reads a puppet's mouth from pixels alone, drawn or generated."""

import numpy as np
from jaxtyping import Float32, UInt8

# Green over red inside a mouth is 0.09 as drawn; lips, tongue, skin and cloth have at least 0.45.
SURE, NEVER = 0.18, 0.32  # what is the inside of a mouth, what is not
PURE, MIXED = 0.1, 0.46  # beside it: how much of a pixel on the edge is inside
MOST_BLUE = 0.62  # of red; purple cloth has more
BRIGHT = (40.0, 70.0)  # of red; darker is only shadow
WINDOW = 0.12  # half of the window around the mouth, as a share of the frame's longer side


def inner_mouth(frames: UInt8[np.ndarray, "F Y X 3"]) -> Float32[np.ndarray, "F Y X"]:
    """How much of each pixel shows the dark red inside of a mouth, from 0 to 1.

    Pixels on its edge are mixtures: they count in part, but only next to one that is surely inside.
    """
    red, green, blue = np.moveaxis(frames.astype(np.float32), -1, 0)
    ratio = green / np.maximum(red, 1)
    able = (blue < MOST_BLUE * red) * ((red - BRIGHT[0]) / (BRIGHT[1] - BRIGHT[0])).clip(0, 1)
    sure = ((NEVER - ratio) / (NEVER - SURE)).clip(0, 1) * able
    part = ((MIXED - ratio) / (MIXED - PURE)).clip(0, 1) * able
    beside = np.pad(sure, ((0, 0), (1, 1), (0, 0)))
    beside = np.maximum(beside[:, :-2], beside[:, 2:])
    return np.maximum(sure, np.minimum(part, beside)).astype(np.float32)


def mouth_opening(frames: UInt8[np.ndarray, "F Y X 3"]) -> Float32[np.ndarray, "F"]:
    """How far the mouth is open in each frame, as a share of the frame's height.

    The mouth is where most of its colour is over the whole clip; its opening is the mean height of
    that colour over the mouth's columns, each weighted by its height, so that a narrow mouth and a wide
    one read alike. It grows with the gap, a little more slowly where teeth and tongue show. In heads,
    about 0.105 is a wide open mouth of any puppet.
    """
    sure = inner_mouth(frames)
    high, wide = sure.shape[1:]
    reach = max(2, round(WINDOW * max(high, wide)))
    y, x = _busiest(sure.sum(axis=0), reach)
    near = sure[:, max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
    columns = near.sum(axis=1)
    total = columns.sum(axis=1)
    return ((columns**2).sum(axis=1) / np.maximum(total, 1e-6) / high * (total > 0.5)).astype(
        np.float32
    )


def _busiest(amount: np.ndarray, reach: int) -> tuple[int, int]:
    """The middle of the window that holds most."""
    padded = np.pad(amount, ((reach, reach), (reach, reach)))
    sums = np.pad(padded.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    side = 2 * reach
    held = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = np.unravel_index(int(np.argmax(held)), held.shape)
    return int(y), int(x)
