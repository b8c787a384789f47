"""Which processes belong together; how a lost one is told from other failures (see also training/)."""

import jax
import pytest

from omnihuman_jax import processes
from omnihuman_jax.errors import InputError

VARIABLES = (processes.ADDRESS, processes.COUNT, processes.NUMBER)


@pytest.fixture
def told(monkeypatch):
    def tell(*values):
        for name, value in zip(VARIABLES, values, strict=True):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return tell


def test_without_being_told_a_process_runs_alone(told):
    told(None, None, None)
    with processes.joined():
        assert jax.process_count() == 1


@pytest.mark.parametrize(
    "values, says",
    [
        (("host:1", None, "0"), "JAX_NUM_PROCESSES=None"),
        (("host:1", "two", "0"), "two whole numbers"),
        (("host:1", "2", "2"), "got 2 of 2"),
        (("host", "2", "0"), "host:port; got 0 of 2 and host"),
    ],
)
def test_variables_that_make_no_sense_are_refused(told, values, says):
    told(*values)
    with pytest.raises(InputError, match=says), processes.joined():
        pass


def test_a_machine_that_nobody_recognises_says_what_to_set(told, monkeypatch):
    told(None, None, None)

    def unknown(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", unknown)
    with (
        pytest.raises(InputError, match="set JAX_COORDINATOR_ADDRESS"),
        processes.joined(everywhere=True),
    ):
        pass


def test_a_lost_process_is_told_from_an_error_of_our_own():
    gloo = "UNKNOWN: Gloo AllGather failed: Read error [127.0.0.1]:61330: Connection reset by peer"
    assert "from its last checkpoint" in processes.lost(jax.errors.JaxRuntimeError(gloo))
    assert "from its last checkpoint" in processes.lost(ValueError(gloo))
    assert processes.lost(ValueError("a peer of no use")) is None
    memory = "RESOURCE_EXHAUSTED: Out of memory allocating 42 bytes"
    assert processes.lost(jax.errors.JaxRuntimeError(memory)) is None
    assert processes.lost(InputError("barrier")) is None


def test_a_lost_process_is_named_where_somebody_knows_it():
    gone = jax.errors.JaxRuntimeError("UNAVAILABLE: Gloo AllReduce failed: connection closed")
    assert "gone or unreachable: process 3 on w-3 (" in processes.lost(
        gone, lambda: "process 3 on w-3"
    )
    assert "gone or unreachable (" in processes.lost(gone, lambda: "")


def test_one_process_waits_for_nobody_and_has_nobody_to_tell():
    processes.barrier("start", 1)
    processes.tell("omnihuman/x", "y")
    assert processes.told("omnihuman/") == {}
