"""The only place that maps high dynamic range and BT.2020 colours to ordinary video."""

import functools

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

TRANSFERS = {16: "pq", 18: "hlg"}  # numbers of ITU-T H.273
BT2020_PRIMARIES = 9

WHITE = 203.0  # nits of diffuse white, "HDR reference white" of ITU-R BT.2408
PEAK = 1000.0  # nits that become the brightest ordinary pixel; what HLG is shown at (BT.2100)
KNEE = 0.75  # of diffuse white: below, light stays as it is
DISPLAY_GAMMA = 2.4  # ITU-R BT.1886
HLG_GAMMA = 1.2  # of a display of 1000 nits, BT.2100 table 5
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
TO_BT709 = np.array(  # ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)


def to_ordinary(coded: UInt16[np.ndarray, "Y X 3"], transfer: str) -> UInt8[np.ndarray, "Y X 3"]:
    """BT.2020 R'G'B' of 16 bits to BT.709 of 8, so that diffuse white stays near white.

    Light = EOTF(code) / 203 nits; colours by BT.2087; then, on the largest channel m, so that hue
    stays, a curve that leaves m under 0.75 alone and bends the rest, with slope 1 at the knee, to
    reach 1 at 1000 nits (Reinhard's extended curve); code = light^(1/2.4). `transfer` is "pq" or
    "hlg" (BT.2100), or "bt2020" for ordinary brightness in wide colours.
    """
    light = _decode_table(transfer)[coded]
    if transfer == "hlg":
        light *= ((light @ LUMA) ** (HLG_GAMMA - 1))[..., None] * (PEAK / WHITE)
    light = np.maximum(light @ TO_BT709.T, 0)
    if transfer != "bt2020":
        light *= _shoulder(light.max(axis=-1))[..., None]
    return (255 * np.minimum(light, 1) ** (1 / DISPLAY_GAMMA) + 0.5).astype(np.uint8)


@functools.cache
def _decode_table(transfer: str) -> Float32[np.ndarray, "65536"]:
    """Light of each code: as a share of diffuse white, for HLG of the scene."""
    code = np.arange(65536) / 65535
    if transfer == "pq":  # SMPTE ST 2084
        m1, m2 = 2610 / 16384, 128 * 2523 / 4096
        c1, c2, c3 = 3424 / 4096, 32 * 2413 / 4096, 32 * 2392 / 4096
        power = code ** (1 / m2)
        nits = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
        return (nits / WHITE).astype(np.float32)
    if transfer == "hlg":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(
            np.float32
        )
    return (code**DISPLAY_GAMMA).astype(np.float32)


def _shoulder(largest: Float32[np.ndarray, "Y X"]) -> Float32[np.ndarray, "Y X"]:
    """What to multiply light by, so that its largest channel ends at or below 1."""
    over = np.maximum(largest - KNEE, 0) / (1 - KNEE)
    top = (PEAK / WHITE - KNEE) / (1 - KNEE)
    bent = KNEE + (1 - KNEE) * over * (1 + over / top**2) / (1 + over)
    return np.where(largest > KNEE, bent / np.maximum(largest, KNEE), 1).astype(np.float32)
