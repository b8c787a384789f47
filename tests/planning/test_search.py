"""The fastest choice that fits is found, and found by asking little."""

import dataclasses

import pytest

from omnihuman_jax import config
from omnihuman_jax.errors import InputError
from omnihuman_jax.planning import search
from omnihuman_jax.planning.chips import slice_of
from omnihuman_jax.planning.compiler import Answer
from omnihuman_jax.planning.search import Choice, Reckoned
from omnihuman_jax.settings import override
from tests.planning.worlds import CONFIG, MINI

# Seconds and bytes of each remat: what is computed again takes time and saves memory.
COSTS = {"none": (1.0, 100.0), "attention": (2.0, 50.0), "full": (3.0, 10.0)}
RECKONED = [Reckoned(Choice(4, 1, remat, 1), b, s) for remat, (s, b) in COSTS.items()]


class Fake:
    """Says that a choice needs `more` times what was reckoned, and fits below `room`."""

    def __init__(self, more: float, room: float) -> None:
        self.more, self.room, self.asked = more, room, list[Choice]()

    def __call__(self, choice: Choice) -> Answer:
        self.asked.append(choice)
        peak = int(COSTS[choice.remat][1] * self.more)
        return Answer(peak <= self.room, peak, seconds=COSTS[choice.remat][0])

    def best(self, tries: int = 6) -> list[search.Tried]:
        return search.best(RECKONED, self.room, self, lambda answer: answer.seconds, tries)


@pytest.mark.parametrize(
    "room, remat, asked", [(200, "none", 1), (60, "attention", 1), (20, "full", 1)]
)
def test_the_fastest_that_fits_is_asked_about_first(room, remat, asked):
    fake = Fake(1.0, room)
    found = fake.best()
    assert found[0].choice.remat == remat and found[0].answer.fits
    assert len(fake.asked) == asked


def test_an_answer_corrects_what_was_reckoned():
    """Everything needs twice as much: "attention" seems to fit, does not, and "full" does."""
    fake = Fake(2.0, 60.0)
    found = fake.best()
    assert [choice.remat for choice in fake.asked] == ["attention", "full"]
    assert found[0].choice.remat == "full" and found[0].seconds == 3.0


def test_where_nothing_fits_the_least_is_told():
    fake = Fake(1.0, 5.0)
    (found,) = fake.best()
    assert found.choice.remat == "full" and not found.answer.fits


def test_no_more_is_asked_than_allowed():
    assert len(Fake(2.0, 60.0).best(tries=1)) == 1


def test_every_choice_shares_the_batch_of_every_stage_and_uses_all_devices():
    run = config.load(CONFIG)
    found = search.choices(slice_of("v6e-256"), run.stages[-1], run.stages)
    assert {choice.context for choice in found} == {1, 2, 4, 8, 16}
    for choice in found:
        assert choice.fsdp * choice.context == 256
        assert 256 % (choice.fsdp * choice.accumulate) == 0


def test_a_choice_is_written_as_train_takes_it():
    run = override(config.load(CONFIG), Choice(64, 4, "full", 2).changes)
    assert (run.mesh.fsdp, run.mesh.context, run.mesh.data) == (64, 4, 1)
    assert run.task.remat == "full" and run.update.accumulate == 2


def test_a_batch_that_is_too_small_says_what_would_do():
    run = config.load(MINI)
    with pytest.raises(InputError, match=r"batch of 8 .* 256 devices .* stages.all.batch=16"):
        search.choices(slice_of("v6e-256"), run.stages[-2], run.stages[-2:-1])


def test_parts_of_a_batch_and_shared_clips_need_less_memory():
    from omnihuman_jax.planning import program
    from omnihuman_jax.planning.plan import usual

    run = config.load(CONFIG)
    network, grid, stage = program.sizes(run), usual(run), run.stages[-1]
    held = program.Held(state=2.7e11, frozen=0.0, gradient=6.6e10, parameters=1.65e10)
    sizes = (slice_of("v6e-64"), stage, network, grid, program.work(network, grid, stage), held)
    one = Choice(16, 4, "attention", 4)
    base = search.reckon(one, *sizes)
    parts = search.reckon(dataclasses.replace(one, accumulate=16), *sizes)
    full = search.reckon(dataclasses.replace(one, remat="full"), *sizes)
    shared = search.reckon(dataclasses.replace(one, fsdp=8, context=8, accumulate=8), *sizes)
    assert parts.bytes < base.bytes and parts.seconds > base.seconds
    assert full.bytes < base.bytes and full.seconds > base.seconds
    assert shared.bytes < base.bytes
