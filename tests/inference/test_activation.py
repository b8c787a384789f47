"""Condition activation: section 3.4's table, and its rule for everything else."""

import itertools
from typing import get_args

import pytest

from omnihuman_jax.cli_generate import DRIVES
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.activation import Drive, activate

ALL = frozenset(STRENGTH)
SUBSETS = [frozenset(names) for n in range(5) for names in itertools.combinations(STRENGTH, n)]


@pytest.mark.parametrize(
    "drive, active",
    [
        ("audio", ALL - {"pose"}),
        ("audio+pose", ALL),
        ("auto", ALL),
        ("pose", ALL - {"audio"}),
        ("text", {"text"}),
    ],
)
def test_the_papers_table(drive, active):
    assert activate(ALL, drive).active == active


@pytest.mark.parametrize("given", SUBSETS)
def test_all_that_is_given_is_active_unless_told_otherwise(given):
    assert activate(given).active == given
    for name in given:
        found = activate(given, without=[name])
        assert found.active == given - {name} and "as asked" in found.why_not[name]


@pytest.mark.parametrize("given", SUBSETS)
@pytest.mark.parametrize("drive", ["text", "audio", "pose", "audio+pose"])
def test_what_is_weaker_comes_along_and_every_other_has_a_reason(given, drive):
    drivers = set(drive.split("+"))
    if not drivers <= given:
        with pytest.raises(InputError, match=f"--drive .* needs {min(drivers - given)}"):
            activate(given, drive)
        return
    found = activate(given, drive)
    top = max(map(STRENGTH.index, drivers))
    weaker = {name for name in given if STRENGTH.index(name) <= top}
    assert found.active == (weaker - {"audio"} if drive == "pose" else weaker)
    assert found.active | found.why_not.keys() == ALL and not found.active & found.why_not.keys()
    assert all(name in found.told() for name in STRENGTH)


def test_the_command_line_offers_all_drives():
    assert get_args(Drive) == DRIVES


def test_other_words_are_refused():
    with pytest.raises(InputError, match="'voice'; there are text"):
        activate(["audio"], without=["voice"])
