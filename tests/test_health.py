"""health.json: how far, how fast, how it ended, and which host lets the others wait."""

import json

import pytest

from omnihuman_jax.health import FILE, WORKDIR, Health, stragglers, watched


def read(folder):
    return json.loads((folder / FILE).read_text())


def test_it_tells_how_far_a_run_is_and_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIHUMAN_RUN_ID", "r")
    monkeypatch.setenv("OMNIHUMAN_WORKER", "w-0")
    health = Health(str(tmp_path), 3, 6)
    for step in (4, 5, 6):
        with health.step(step):
            pass
    health.close()
    health.close()
    told = read(tmp_path)
    assert (told["step"], told["total"], told["state"], told["run_id"]) == (6, 6, "finished", "r")
    assert told["seconds_a_step"] >= 0 and told["slow"] == ""
    (host,) = told["hosts"]
    assert (host["process"], host["host"], host["step"]) == (0, "w-0", 6)


def test_a_run_that_is_stopped_or_fails_is_not_finished(tmp_path):
    health = Health(str(tmp_path), 3, 6)
    health.close()
    assert read(tmp_path)["state"] == "stopped"
    health = Health(str(tmp_path), 3, 6)
    with pytest.raises(ValueError):
        try:
            raise ValueError
        finally:
            health.close()
    assert read(tmp_path)["state"] == "failed"


def test_it_is_written_while_no_step_ends(tmp_path):
    health = Health(str(tmp_path), 0, 6, every=0.01)
    before = None
    while before is None or read(tmp_path)["time"] == before:
        before = read(tmp_path)["time"] if (tmp_path / FILE).exists() else None
    assert read(tmp_path)["state"] == "running"
    health.close()


def test_work_that_is_no_training_is_watched_where_somebody_looks(tmp_path, monkeypatch):
    monkeypatch.delenv(WORKDIR, raising=False)
    with watched(3) as told:
        told(1)
    monkeypatch.setenv(WORKDIR, str(tmp_path))
    with watched(3, 1) as told:
        told(2)
    assert (read(tmp_path)["step"], read(tmp_path)["state"]) == (2, "stopped")
    with pytest.raises(KeyError), watched(3) as told:
        raise KeyError
    assert read(tmp_path)["state"] == "failed"
    with watched(3) as told:
        told(3)
    assert read(tmp_path)["state"] == "finished"


def test_pieces_show_that_a_run_goes_on_though_no_step_ends(tmp_path):
    health = Health(str(tmp_path), 3, 6)
    health.piece()
    health.piece()
    health.close()
    assert (read(tmp_path)["step"], read(tmp_path)["pieces"]) == (3, 2)


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    health = Health(str(tmp_path / "file"), 0, 6)
    with health.step(1):
        pass
    health.close()


@pytest.mark.parametrize(
    "own, pace, slow",
    [
        ([0.1, 0.1, 0.1, 0.1], 1.0, []),
        ([0.1, 0.1, 0.9, 0.1], 1.5, ["w-2"]),  # 9 times the others, half a step more
        ([0.001, 0.001, 0.009, 0.001], 1.5, []),  # 9 times, and nobody waits for it
        ([0.1, 0.9], 1.5, ["w-1"]),
        ([0.9], 1.5, []),
        ([0.1, 0.9], None, []),  # no step is over yet
    ],
)
def test_who_lets_the_others_wait(own, pace, slow):
    hosts = {str(n): {"host": f"w-{n}", "own_seconds": seconds} for n, seconds in enumerate(own)}
    assert stragglers(hosts, pace) == slow
