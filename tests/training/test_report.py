"""What is reported is what was measured, one step late; no restart, fault or host changes that."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.media import probe_video
from omnihuman_jax.training import report as module
from omnihuman_jax.training.goodput import Ledger
from omnihuman_jax.training.report import Report, Watch
from omnihuman_jax.training.task import Cost, Sample
from tests.cloud import cloud  # noqa: F401

QUIET = Watch(every=2, wandb="off", tensorboard=False)
COST = Cost(samples=4, tokens=400, flops=8e9)


@contextlib.contextmanager
def reporting(folder, watch=QUIET, **more):
    report = Report(str(folder), watch, name="run", config={"seed": 0}, run_id="abc", **more)
    try:
        yield report
    finally:
        report.close()


def tallies(**sums):
    return {name: jnp.asarray(pair, jnp.float32) for name, pair in sums.items()}


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def test_numbers_are_read_when_the_next_step_has_been_given(tmp_path, monkeypatch):
    """So the device is never without work while the host looks at a result."""
    read = []
    monkeypatch.setattr(jax, "device_get", lambda x: read.append(x) or jax.tree.map(np.asarray, x))
    given = [tallies(loss=(step, 1)) for step in range(4)]
    with reporting(tmp_path) as report:
        for step in (1, 2, 3):
            report.step(step, given[step], COST)
            assert [id(x) for x in read] == [id(x) for x in given[1:step]]
        assert [line["loss"] for line in lines(tmp_path)] == [1.5]
    assert [line["loss"] for line in lines(tmp_path)] == [1.5, 3.0]


def test_a_report_is_sum_over_count_and_what_is_not_finite_stays_in_sight(tmp_path, capsys):
    nan, inf = float("nan"), float("inf")
    with reporting(tmp_path, Watch(every=3, wandb="off", tensorboard=False), total=9) as report:
        report.step(1, tallies(loss=(9, 3), pose=(0, 0), far=(1, 1), part=(2, 4)), COST)
        report.step(2, tallies(loss=(1, 1), pose=(0, 0), far=(nan, 1)), COST, extra={"rate": 0.5})
        report.step(3, tallies(loss=(5, 1), pose=(0, 0), far=(1, 1)), COST, extra={"rate": 0.25})
        report.step(4, tallies(loss=(7, 7), pose=(3, 2), far=(inf, 1)), COST)
    first, last = lines(tmp_path)
    assert (first["step"], first["steps"], last["step"], last["steps"]) == (3, 3, 4, 1)
    assert (first["loss"], first["part"], first["rate"]) == (3.0, 0.5, 0.25)
    assert "pose" not in first and last["pose"] == 1.5
    assert (first["far"], last["far"]) == ("nan", "inf")
    said = capsys.readouterr().err
    assert "run: step 3/9, loss 3" in said and "to go" in said
    assert "Step 3: not finite since the last report: far." in said


def test_speeds_are_those_of_the_cost_and_agree_with_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "peak", lambda kind: 4e12)
    with reporting(tmp_path) as report:
        for step in range(1, 5):
            with report.spent("data"):
                time.sleep(0.01)
            report.step(step, tallies(loss=(1, 1)), COST)
    _, line = lines(tmp_path)
    pace = line["step_ms"] / 1e3
    assert pace >= 0.01  # the wait for data is part of it
    assert line["samples_per_s"] == pytest.approx(4 / pace)
    assert line["tokens_per_s"] == pytest.approx(400 / pace)
    assert line["tflops_per_device"] == pytest.approx(8e9 / pace / 8 / 1e12)
    assert line["mfu"] == pytest.approx(line["tflops_per_device"] / 4)
    assert line["goodput"] <= 0.9 and line["seconds/data"] > 0.015
    assert line["host_gb"] > 0.01


# What a host does: waits for something for some ticks, or prepares a step that takes the device others.
ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["data", "save", "nested"]), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("step"), st.integers(0, 3), st.integers(0, 12)),
    ),
    max_size=25,
)


class Diary:
    """A host and a device whose every tick is written down: the ledger's truth."""

    def __init__(self):
        self.host, self.device, self.free = [], set(), 0
        self.ledger = Ledger(clock=lambda: float(len(self.host)))
        self.pending = None

    def nested(self, ticks):
        with self.ledger.spent("sample"):
            self.host += ["sample"] * ticks
            with self.ledger.spent("data"):
                self.host += ["data"] * 2
            self.host += ["sample"]

    def wait(self, kind, ticks):
        with self.ledger.spent(kind):
            self.host += [kind] * ticks

    def step(self, ticks, work):
        # Until it waits or gives a step, nobody knows that the host prepares one.
        self.host += ["step" if self.pending or len(set(self.host)) > 1 else "start"] * ticks
        since = self.ledger.given()
        begins = max(self.free, len(self.host))
        self.finish()
        self.free = begins + work
        self.device |= set(range(begins, self.free))
        self.pending = (since, float(self.free))

    def finish(self):
        """Wait for the step before."""
        if self.pending is not None:
            self.host += ["step"] * (self.free - len(self.host))
            self.ledger.step(*self.pending)

    def kinds(self):
        found = {}
        for tick, kind in enumerate(self.host):
            kind = "step" if tick in self.device else kind
            found[kind] = found.get(kind, 0) + 1
        return found


@given(ACTS)
@settings(max_examples=300, deadline=None)
def test_every_tick_is_booked_once_and_waiting_costs_only_while_the_device_is_idle(acts):
    diary = Diary()
    diary.host += ["start"] * 3
    for kind, ticks, work in acts:
        if kind == "step":
            diary.step(ticks, work)
        elif kind == "nested":
            diary.nested(ticks)
        else:
            diary.wait(kind, ticks)
    diary.finish()
    diary.ledger.close()
    assert {kind: s for kind, s in diary.ledger.seconds.items() if s} == diary.kinds()


def test_the_pace_is_that_of_the_device_or_of_the_data_and_without_what_is_rare():
    now = [0.0]
    ledger = Ledger(clock=lambda: now[0])

    def wait(kind, seconds):
        with ledger.spent(kind):
            now[0] += seconds

    wait("compile", 100)
    first = ledger.given(), 110.0
    wait("data", 4)  # while the device is at work
    second = ledger.given(), 120.0
    assert ledger.step(*first) is None  # it waited for the compilation
    now[0] = 110
    wait("data", 3)
    third = ledger.given(), 130.0
    assert ledger.step(*second) == 10
    now[0] = 120
    wait("save", 30)  # 20 of them with an idle device
    wait("data", 5)
    last = ledger.given(), 165.0
    assert ledger.step(*third) == 10
    assert ledger.step(*last) == 15  # 5 seconds without data are the pace too
    assert ledger.seconds["save"] == 20 and ledger.seconds["data"] == 5


def test_a_restart_undoes_what_it_does_again_and_keeps_the_rest_to_the_byte(tmp_path):
    with reporting(tmp_path) as report:
        for step in range(1, 9):
            report.step(step, tallies(loss=(step, 1)), COST)
    record, lives = tmp_path / "metrics.jsonl", tmp_path / "goodput.json"
    before, first = record.read_bytes().splitlines(keepends=True), json.loads(lives.read_text())
    record.write_bytes(b"".join(before) + b'{"step": 10, "lo')  # the plug was pulled here
    with reporting(tmp_path, resumed_at=4) as report:
        for step in (5, 6):
            report.step(step, tallies(loss=(step, 1)), COST)
    after = record.read_bytes().splitlines(keepends=True)
    assert after[:2] == before[:2]
    assert [json.loads(line)["loss"] for line in after] == [1.5, 3.5, 5.5]
    second = json.loads(lives.read_text())
    assert second["lives"] == 2
    lost = sum(json.loads(line)["seconds/step"] for line in before[2:])
    own = sum(json.loads(line)["seconds/step"] for line in after[2:])
    assert second["seconds"]["redone"] == pytest.approx(lost)
    assert second["seconds"]["step"] == pytest.approx(first["seconds"]["step"] - lost + own)
    assert second["goodput"] == pytest.approx(
        second["seconds"]["step"] / sum(second["seconds"].values())
    )
    with reporting(tmp_path):  # from the beginning
        pass
    assert lines(tmp_path) == []


def test_a_sample_is_a_video_a_sheet_and_scores(tmp_path, capsys):
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 48, 3)).astype(np.uint8)
    sample = Sample(frames, 25.0, np.zeros(5760, np.float32), {"lip_corr": 0.75})
    watch = Watch(every=2, wandb="off")
    with reporting(tmp_path, watch) as report:
        report.step(1, tallies(loss=(1, 1)), COST)
        report.step(2, tallies(loss=(1, 1)), COST)
        report.sample(2, sample)
        report.step(3, tallies(loss=(1, 1)), COST)
    facts = probe_video(tmp_path / "samples" / "step-00000002.mp4")
    assert (facts.frames, facts.height, facts.width) == (9, 32, 48)
    assert facts.audio_seconds is not None
    assert (tmp_path / "samples" / "step-00000002.png").exists()
    steps, scores, _ = lines(tmp_path)
    assert steps["step"] == 2 and steps["steps"] == 2
    assert scores == {
        "step": 2, "sample": "samples/step-00000002.mp4", "sample/lip_corr": 0.75
    }  # fmt: skip
    assert "lip_corr 0.75" in capsys.readouterr().err
    events = b"".join(f.read_bytes() for f in (tmp_path / "tensorboard").iterdir())
    assert all(tag in events for tag in (b"sample/frames", b"sample/lip_corr", b"loss", b"config"))


def test_other_hosts_keep_the_pace_and_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    read = []
    monkeypatch.setattr(jax, "device_get", lambda x: read.append(x) or jax.tree.map(np.asarray, x))
    with reporting(tmp_path / "run", Watch(profile=(1, 1))) as report:
        for step in (1, 2, 3):
            with report.spent("data"):
                report.step(step, tallies(loss=(1, 1)), COST)
        report.sample(3, Sample(np.zeros((1, 16, 16, 3), np.uint8), 25.0))
        report.message("hello")
        assert len(read) == 2
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


def test_a_tracker_that_fails_is_left_out_and_the_record_goes_on(tmp_path, capsys):
    class Broken:
        calls = 0

        def log(self, step, numbers):
            Broken.calls += 1
            raise ConnectionResetError("Connection lost")

    with reporting(tmp_path) as report:
        report._trackers.append(Broken())
        for step in range(1, 6):
            report.step(step, tallies(loss=(1, 1)), COST)
    assert Broken.calls == 1
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 5]
    said = capsys.readouterr().err
    assert said.count("Broken has stopped; metrics.jsonl goes on: Connection lost.") == 1


def test_on_a_bucket_the_record_is_whole_and_the_next_life_goes_on_with_it(cloud):  # noqa: F811
    folder = f"{cloud}/runs/one"
    watch = Watch(every=2, wandb="off")
    with reporting(folder, watch) as report:
        for step in (1, 2, 3, 4):
            report.step(step, tallies(loss=(step, 1)), COST)
    with reporting(folder, watch, resumed_at=2) as report:
        for step in (3, 4, 5):
            report.step(step, tallies(loss=(step, 1)), COST)
    text = storage.read_bytes(f"{folder}/metrics.jsonl").decode()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [2, 4, 5]
    assert json.loads(storage.read_bytes(f"{folder}/goodput.json"))["lives"] == 2
    assert sum("tfevents" in name for name in storage.files(folder)) == 2
    assert not Path("gs:").exists()


def test_a_bucket_that_fails_is_told_and_the_record_stays_here(
    cloud,  # noqa: F811
    monkeypatch,
    capsys,
):
    monkeypatch.setattr("omnihuman_jax.training.trackers.PATIENCE", 0.01)
    refused = threading.Event()

    def refuse(path, data, real=storage.write_bytes):
        if storage.is_remote(path):
            refused.set()
            raise ConnectionError("503")
        real(path, data)

    report = Report(f"{cloud}/runs/two", QUIET, name="run", config={}, run_id="abc")
    monkeypatch.setattr(storage, "write_bytes", refuse)
    for step in (1, 2, 3):
        report.step(step, tallies(loss=(step, 1)), COST)
    assert refused.wait(20)
    with pytest.raises(ConnectionError, match=r"503\. What is not there yet is in") as why:
        report.close()
    assert "did not go to" in capsys.readouterr().err
    left = Path(str(why.value).split()[-1].rstrip("."))
    assert [line["step"] for line in lines(left)] == [2, 3]


def test_a_profile_holds_the_steps_that_were_asked_for(tmp_path):
    watch = Watch(every=2, wandb="off", tensorboard=False, profile=(2, 2))
    with reporting(tmp_path, watch) as report:
        for step in range(1, 6):
            with jax.profiler.TraceAnnotation(f"number-{step}"):
                loss = tallies(loss=(1, 1))
            report.step(step, loss, COST)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    found = [step for step in range(1, 6) if f"number-{step}".encode() in trace.read_bytes()]
    assert found == [2, 3]


LIFE = """
import sys
from omnihuman_jax.training.report import Report, Watch
from omnihuman_jax.training.task import Cost
import jax.numpy as jnp
folder, mode, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
report = Report(folder, Watch(every=1, wandb=mode, tensorboard=False), name="run",
                config={"seed": 0}, resumed_at=first)
report.step(first + 1, {"loss": jnp.ones(2)}, Cost(1, 1))
report.close()
print("wandb" in sys.modules)
"""


@pytest.mark.slow
def test_wandb_offline_asks_the_network_nothing_and_both_lives_are_one_run(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # whoever wants out must come here
        proxy.settimeout(0.2)
        out = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        proxies = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"], out)
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        env |= proxies | {"JAX_PLATFORMS": "cpu"}

        def life(mode, first):
            command = [sys.executable, "-c", LIFE, str(tmp_path), mode, str(first)]
            told = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            assert "wandb" not in told.stderr  # the terminal is ours
            return told.stdout.strip()

        assert [life("off", 0), life("offline", 1), life("offline", 2)] == ["False", "True", "True"]
        with pytest.raises(TimeoutError):
            proxy.accept()
    number = (tmp_path / "wandb-id.txt").read_text()
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and all(run.name.endswith(number) for run in runs)
    assert all((run / f"run-{number}.wandb").stat().st_size > 0 for run in runs)


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"every": 0}, "every"),
        ({"sample_every": -1}, "sample_every"),
        ({"wandb": "on"}, "offline"),
        ({"profile": (3,)}, "20,3"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, word):
    with pytest.raises((InputError, TypeError), match=word):
        Watch(**changes)


def test_an_unknown_kind_of_time_is_refused(tmp_path):
    with (
        reporting(tmp_path) as report,
        pytest.raises(InputError, match="compile"),
        report.spent("thinking"),
    ):
        pass
