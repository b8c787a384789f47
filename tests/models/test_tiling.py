"""Tiles: every cell is covered with weights that sum to one, and joins fade linearly."""

import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.models.tiling import in_tiles


def enlarge(x, cache):
    """Pixels 8 times as large; the cache counts the frames seen, which are added."""
    seen = jnp.zeros(()) if cache is None else cache
    count = seen + jnp.arange(x.shape[1])[None, :, None, None, None]
    return (x + count).repeat(8, axis=2).repeat(8, axis=3), seen + x.shape[1]


@pytest.mark.parametrize("tile, overlap", [(1, 0), (3, 2), (4, 0), (5, 1), (7, 3), (99, 0)])
def test_a_step_that_looks_nowhere_else_gives_the_same_in_tiles(tile, overlap):
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 7, 2)).astype(np.float32)
    whole, _ = enlarge(jnp.asarray(x), None)
    tiled = in_tiles(enlarge, x, whole.shape, tile=tile, overlap=overlap, ends=[1, 4, 6])
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-6)


def test_one_tile_fades_into_the_next_in_equal_steps():
    """Tiles of constants 0 and 1 that share four cells: 1/5, 2/5, 3/5, 4/5 between them."""
    given = iter([0.0, 1.0])

    def step(x, cache):
        return jnp.full_like(x, next(given)), cache

    x = np.zeros((1, 1, 6, 8, 1), np.float32)
    tiled = in_tiles(step, x, x.shape, tile=6, overlap=4, ends=[1])
    np.testing.assert_allclose(tiled[0, 0, 3, :, 0], [0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1], atol=1e-6)
