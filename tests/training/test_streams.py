"""A stream of numbered batches: whoever goes on from a place gets the batches that would have come."""

import itertools

import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.training.streams import Numbered


def squares(**identity):
    return Numbered(lambda n: n * n, identity or {"seed": 0})


def test_batches_come_in_their_order_and_a_place_is_how_many_have_gone():
    stream = squares()
    assert list(itertools.islice(stream, 5)) == [0, 1, 4, 9, 16]
    place = stream.get_state()
    stream.close()
    again = squares()
    again.set_state(place)
    assert list(itertools.islice(again, 3)) == [25, 36, 49]
    assert again.get_state()["batches"] == 8
    again.close()


def test_a_place_in_other_batches_is_refused():
    stream, other = squares(), squares(seed=1)
    with pytest.raises(InputError, match="seed"):
        other.set_state(stream.get_state())
    stream.close()
    other.close()


def test_what_goes_wrong_in_a_thread_is_not_lost():
    stream = Numbered(lambda n: 1 // (2 - n), {"seed": 0})
    with pytest.raises(ZeroDivisionError):
        list(itertools.islice(stream, 4))
    stream.close()
