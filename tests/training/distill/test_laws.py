"""The losses of distillation on toys whose answer is known: small enough to be right about."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.models.discriminator import taps
from omnihuman_jax.training import parts
from omnihuman_jax.training.distill.adversarial import Adversarial, Critique
from omnihuman_jax.training.distill.consistency import Consistency
from omnihuman_jax.training.distill.continuous import (
    Continuous,
    beside,
    circular,
    direction,
    flow_point,
)
from omnihuman_jax.training.distill.matching import Matching
from omnihuman_jax.training.distill.student import STUDENT
from omnihuman_jax.training.stages import OmniStage, Ratios

KEY = jax.random.key(0)
STAGE = OmniStage(
    name="all", steps=1, batch=1, ratios=Ratios(text=1.0, reference=0, audio=0, pose=0, motion=0)
)
MEAN, WIDTH = 1.5, 0.5  # of the data of toys: one number a clip


def clips(values):
    """Numbers as a batch of clips of one latent."""
    values = jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1, 1)
    sample = jnp.arange(len(values), dtype=jnp.uint32)
    return Batch(latents=values, conditions=Conditions(), sample=sample)


def normal_velocity(x, t, mean=MEAN, width=WIDTH):
    """The velocity of the flow from N(mean, width^2) to N(0, 1), a formula: E[noise - x0 | x_t]."""
    t = t.reshape(-1, 1, 1, 1, 1)
    spread = ((1 - t) * width) ** 2 + t**2
    rest = x - (1 - t) * mean
    return (t - (1 - t) * width**2) / spread * rest - mean


class Exact:
    """In place of networks: the teacher is a formula, a student is a table of lines over levels of time."""

    def velocity(self, dit, conditions, x, t):
        return dit(x, t)

    def teach(self, given, conditions, x, t):
        return normal_velocity(x, t)

    def rebuilt(self, role, given):
        own = parts.own(role, given)

        def line(x, t):
            at = t * (len(own["slope"]) - 1)
            low = jnp.clip(at.astype(jnp.int32), 0, len(own["slope"]) - 2)
            part = (at - low)[:, None, None, None, None]
            slope, bias = (
                (1 - part) * own[name][low][:, None, None, None, None]
                + part * own[name][low + 1][:, None, None, None, None]
                for name in ("slope", "bias")
            )
            return slope * x + bias

        return line


def table(role, knots=33):
    return {f"{role}/slope": jnp.zeros(knots), f"{role}/bias": jnp.zeros(knots)}


def fit(loss, params, part, batches, rate=0.02):
    """Adam on one part of the parameters."""
    transform = optax.adam(optax.cosine_decay_schedule(rate, len(batches)))

    @jax.jit
    def step(own, state, batch, key, count):
        def value(own):
            given = {**params, **parts.under(part, own), parts.COUNT: count}
            return loss(given, batch, key)[0]

        changes, state = transform.update(jax.grad(value)(own), state)
        return optax.apply_updates(own, changes), state

    own = parts.own(part, params)
    state = transform.init(own)
    for n, batch in enumerate(batches):
        own, state = step(own, state, batch, jax.random.fold_in(KEY, n), jnp.float32(n))
    return {**params, **parts.under(part, own)}


def data(count, size=256, seed=0):
    random = np.random.default_rng(seed)
    return [clips(MEAN + WIDTH * random.standard_normal(size)) for _ in range(count)]


def euler(levels):
    """Slope and bias of the map from noise to data by so many Euler steps along the known flow."""
    ends = jnp.asarray([0.0, 1.0]).reshape(-1, 1, 1, 1, 1)
    times = np.linspace(1, 0, levels + 1)
    for t, s in itertools.pairwise(times):
        ends = ends + (s - t) * normal_velocity(ends, jnp.full(2, t))
    low, high = np.ravel(ends)
    return high - low, low


def test_consistency_finds_the_one_step_map_of_a_known_flow():
    """What 32 Euler steps of the teacher make; the exact flow takes z to mean + width z, at first order."""

    class Toy(Exact, Consistency):
        pass

    toy = Toy(model="", data="", level_shift=1.0)
    params = fit(functools.partial(toy.loss, STAGE), table(STUDENT), STUDENT, data(2500), 0.1)
    slope, bias = euler(32)
    z = jnp.asarray([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(-1, 1, 1, 1, 1)
    found = z - toy.rebuilt(STUDENT, params)(z, jnp.ones(5))
    np.testing.assert_allclose(found.ravel(), bias + slope * z.ravel(), atol=0.04)
    errors = [abs(euler(n)[0] - WIDTH) for n in (32, 64, 128)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_a_consistent_student_has_no_loss_and_no_direction():
    """Of the exact flow map f: f(x_t) = f(x_s) on one path (to Euler's error), and sCM's g is 0."""
    angle = jnp.asarray([0.2, 0.7, 1.2])
    x = jnp.asarray([0.3, -1.0, 2.0]).reshape(-1, 1, 1, 1, 1)

    def exact(x, a):  # the end of the path through (x, a): the quantile stays the same
        cos, sin = jnp.cos(a)[:, None, None, None, None], jnp.sin(a)[:, None, None, None, None]
        end = MEAN + WIDTH * (x - cos * MEAN) / jnp.sqrt((cos * WIDTH) ** 2 + sin**2)
        return (cos * x - end) / sin

    def teacher(x, a):
        point, t = flow_point(x, a)
        return circular(x, a, normal_velocity(point, t))

    along = (jnp.cos(angle) * jnp.sin(angle))[:, None, None, None, None]
    now, change = jax.jvp(exact, (x, angle), (along * teacher(x, angle), along.ravel()))
    g = direction(
        x, angle, now, change, teacher(x, angle), jnp.float32(1), jnp.ones((3, 1, 1, 1, 1)), 1e-3
    )
    np.testing.assert_allclose(g, 0, atol=5e-3)
    other, change = jax.jvp(
        lambda x, a: 0.5 * exact(x, a), (x, angle), (along * teacher(x, angle), along.ravel())
    )
    g = direction(
        x, angle, other, change, teacher(x, angle), jnp.float32(1), jnp.ones((3, 1, 1, 1, 1)), 1e-3
    )
    assert float(jnp.min(jnp.abs(g))) > 0.5


def test_continuous_consistency_finds_the_one_step_map_too():
    """Without levels there is no Euler's error: the exact flow takes z to mean + width z."""

    class Toy(Exact, Continuous):
        def rebuilt(
            self, role, given
        ):  # smooth in time, for its derivative is what is learned from
            own = parts.own(role, given)

            def line(x, t):
                powers = (2 * t[:, None] - 1) ** jnp.arange(6, dtype=jnp.float32)[None]
                slope, bias = (powers @ own[name] for name in ("slope", "bias"))
                return beside(slope) * x + beside(bias)

            return line

    toy = Toy(model="", data="", matching=0.0, mean=0.0, warmup=200, scale=1.0, constant=1.0)
    batches = [
        clips(MEAN + WIDTH * x) for x in np.random.default_rng(0).standard_normal((3000, 256))
    ]
    loss = functools.partial(toy.consist, STAGE)
    params = fit(loss, table(STUDENT, knots=6), STUDENT, batches, 0.03)
    z = jnp.asarray([-1.0, 0.0, 1.0]).reshape(-1, 1, 1, 1, 1)
    found = z - toy.rebuilt(STUDENT, params)(z, jnp.ones(3))
    np.testing.assert_allclose(found.ravel(), MEAN + WIDTH * z.ravel(), atol=0.1)


def test_matching_moves_what_the_student_makes_to_the_teacher():
    class Toy(Exact, Matching):
        def rebuilt(self, role, given):  # the fake network knows what the student makes: a Gaussian
            if role == STUDENT:
                return super().rebuilt(role, given)
            own = parts.own(STUDENT, given)
            mean, width = -own["bias"][-1], 1 - own["slope"][-1]
            return functools.partial(normal_velocity, mean=mean, width=width)

    toy = Toy(model="", data="", time_shift=1.0)
    start = table(STUDENT)
    params = fit(functools.partial(toy.match, STAGE), start, STUDENT, data(600), 0.05)
    z = jnp.asarray([-1.0, 0.0, 1.0]).reshape(-1, 1, 1, 1, 1)
    found = (z - toy.rebuilt(STUDENT, params)(z, jnp.ones(3))).ravel()
    assert found[1] == pytest.approx(MEAN, abs=0.05)
    assert found[2] - found[1] == pytest.approx(WIDTH, abs=0.05)


class Looking:
    """In place of a discriminator: a small network of one latent, and what times it was asked at."""

    def __init__(self, params):
        self.params, self.times = params, []

    def embed(self, conditions, clips, height, width):
        return None

    def __call__(self, x, t, tokens):
        self.times.append(t)
        hidden = jnp.tanh(x.reshape(len(t), -1) @ self.params["in"] + self.params["at"][None])
        return (hidden @ self.params["out"])[:, 0]


def looking(seed=0, hidden=32):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "in": 2 * jax.random.normal(keys[0], (1, hidden)),
        "at": jax.random.normal(keys[1], (hidden,)),
        "out": 0.1 * jax.random.normal(keys[2], (hidden, 1)),
    }


def test_the_adversarial_stage_moves_a_one_step_generator_to_two_gaussians():
    """Data at -1 and 1; a generator that makes only what lies between, as consistency leaves it, parts."""

    class Toy(Adversarial):
        def velocity(self, dit, conditions, x, t):
            return dit(x, t)

        def rebuilt(self, role, given):
            own = parts.own(role, given)
            if role != STUDENT:
                return Looking(own)
            bend = lambda x: jnp.tanh(x.reshape(-1, 1) @ own["in"]) @ own["out"]
            return lambda x, t: x - 0.5 * x - bend(x).reshape(x.shape)

    toy = Toy(model="", data="", critique=Critique(shift=1.0, sigma=0.05, r1=1.0))
    random = np.random.default_rng(0)
    real = lambda: clips(random.choice([-1, 1], 512) + 0.1 * random.standard_normal(512))
    student = {"in": jnp.linspace(0.5, 4, 8)[None], "out": jnp.zeros((8, 1))}
    params = {**parts.under("student", student), **parts.under("critic", looking())}
    moves = {"student": optax.rmsprop(2e-3, 0.9), "critic": optax.rmsprop(1e-2, 0.9)}
    state = {part: move.init(parts.own(part, params)) for part, move in moves.items()}
    losses = {turn.part: turn.loss for turn in toy.turns(STAGE)}

    @functools.partial(jax.jit, static_argnums=0)
    def step(part, params, state, batch, key):
        value = lambda own: losses[part]({**params, **parts.under(part, own)}, batch, key)[0]
        grads = jax.grad(value)(parts.own(part, params))
        changes, new = moves[part].update(grads, state[part])
        own = optax.apply_updates(parts.own(part, params), changes)
        return {**params, **parts.under(part, own)}, {**state, part: new}

    def middle(params):
        z = jax.random.normal(jax.random.key(9), (2000, 1, 1, 1, 1))
        made = z - toy.rebuilt("student", params)(z, jnp.ones(2000))
        return float(jnp.mean(jnp.abs(made) < 0.5)), float(jnp.mean(jnp.abs(made)))

    before, _ = middle(params)
    for n in range(600):
        for part in ("critic", "student"):
            params, state = step(part, params, state, real(), jax.random.fold_in(KEY, n))
    after, size = middle(params)
    assert before > 0.6 and after < 0.25 and size == pytest.approx(1.0, abs=0.2)


def test_r1_is_what_it_is_defined_as():
    """For a linear D(x) = w x, (D(x) - D(x + s n))^2 is s^2 w^2 n^2; its mean is s^2 w^2."""

    class Linear(Looking):
        def __call__(self, x, t, tokens):
            return 3.0 * x.reshape(-1)

    many = clips(np.random.default_rng(0).standard_normal(4000))
    _, told = Critique(sigma=0.1).loss(
        Linear({}), many.conditions, many.latents, many.latents, KEY, many.sample
    )
    total, count = told["critic/r1"]
    assert float(total / count) == pytest.approx((0.1 * 3.0) ** 2, rel=0.1)


def test_the_discriminators_loss_is_the_papers():
    """softplus(-2) + softplus(-1) for D(x) = 2, D(G) = -1, by hand: 0.1269 + 0.3133."""

    class Sure(Looking):
        def __call__(self, x, t, tokens):
            return jnp.where(x.reshape(-1) > 0, 2.0, -1.0)

    real, made = clips([1.0, 1.0]), clips([-1.0, -1.0])
    critic = Sure({})
    value, _ = Critique().loss(
        critic, real.conditions, real.latents, made.latents, KEY, real.sample
    )
    assert float(value) == pytest.approx(0.1269 + 0.3133, abs=1e-3)
    wish = Critique().wish(critic, real.conditions, made.latents, KEY, real.sample)
    np.testing.assert_allclose(wish, 1.3133, atol=1e-3)


@pytest.mark.parametrize("shift", [1.0, 12.0])
def test_times_are_shifted_once_and_lie_between_0_and_1(shift):
    """Even t in [0, 1], shifted: half below shift / (1 + shift), a tenth below shift / (9 + shift)."""
    many = clips(np.zeros(4000))
    critic = Looking(looking())
    Critique(shift=shift).wish(critic, many.conditions, many.latents, KEY, many.sample)
    (t,) = critic.times
    assert t.shape == (4000,) and float(t.min()) >= 0 and float(t.max()) <= 1
    assert float(jnp.mean(t < shift / (1 + shift))) == pytest.approx(0.5, abs=0.03)
    assert float(jnp.mean(t < shift / (9 + shift))) == pytest.approx(0.1, abs=0.02)


def test_a_clip_is_looked_at_once_and_all_of_it_at_the_same_time():
    many = clips(np.zeros(16))
    critic = Looking(looking())
    Critique().loss(critic, many.conditions, many.latents, many.latents, KEY, many.sample)
    for t in critic.times[1:]:
        np.testing.assert_array_equal(t, critic.times[0])


@pytest.mark.parametrize("layers", range(1, 49))
def test_a_discriminator_has_eyes_at_every_size(layers):
    found = taps(layers)
    assert list(found) == sorted(set(found)) and found[0] >= 1 and found[-1] == layers
    assert len(found) == min(layers, 3)


def test_the_eyes_are_where_the_paper_has_them():
    assert taps(36) == (16, 26, 36)
    assert taps(30) == (13, 22, 30) and taps(40) == (18, 29, 40)


def test_levels_begin_at_noise_and_end_at_data():
    grid = Consistency(model="", data="", levels=32, level_shift=24.0).grid()
    assert grid[0] == 1 and grid[-1] == 0 and len(grid) == 33 and (np.diff(grid) < 0).all()
    assert grid[16] == pytest.approx(24 / 25)  # the middle, shifted once


def test_the_second_step_starts_where_the_sampler_puts_it():
    from omnihuman_jax.diffusion.samplers import make

    task = Adversarial(model="", data="", shift=3.0)
    assert task.second_at == pytest.approx(make("consistency").schedule(2, 3.0).sigmas[1], abs=1e-6)


def test_settings_that_cannot_work_are_refused():
    from omnihuman_jax.errors import InputError

    for wrong in (
        lambda: Consistency(model="", data="", levels=0),
        lambda: Adversarial(model="", data="", steps=3),
        lambda: Matching(model="", data="", fake_updates=0),
        lambda: Continuous(model="", data="", deviation=0.0),
        lambda: Critique(shift=0.0),
    ):
        with pytest.raises(InputError):
            wrong()
