"""Network, schedule and solver together follow diffusers' own path from noise to data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.conditions import Conditions
from omnihuman_jax.diffusion import samplers
from tests.models.test_dit import error, plain


@pytest.mark.parametrize("steps", [10])
def test_a_whole_unipc_path_equals_diffusers(steps):
    model, golden = plain()
    sampler = dataclasses.replace(samplers.make("unipc"), spacing=samplers.DIFFUSERS_UNIPC)
    calls = sampler.calls(sampler.schedule(steps, shift=3.0))

    @jax.jit
    def advance(state, call, tokens):
        velocity = lambda x, t: model(x, jnp.broadcast_to(t, x.shape[:1]), tokens)
        return samplers.step(velocity, state, call)

    tokens = model.embed(Conditions(text=golden["text"]), 2, 8, 12)
    state, errors = sampler.init(golden["x"]), {}
    for i in range(len(calls)):
        state = advance(state, calls[i], tokens)
        for number, wanted in zip(golden["path_steps"], golden["path"], strict=True):
            if number == i:
                errors[i] = error(state[0], np.asarray(wanted, np.float64))
    assert len(errors) == 4 and max(errors.values()) <= 1e-4, errors
