"""A teacher's dump: what is learned from it is what the teacher would have said, and it may be stopped."""

import contextlib

import jax
import numpy as np
import pytest

from omnihuman_jax import mesh as meshes
from omnihuman_jax.data.dumps import DumpSource
from omnihuman_jax.errors import InputError
from omnihuman_jax.training.distill import dumping
from omnihuman_jax.training.distill.consistency import Consistency
from omnihuman_jax.training.distill.student import NEGATIVE, STUDENT
from tests.training import worlds
from tests.training.distill.test_steps import RATIOS, task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


@pytest.fixture
def blocks(monkeypatch):
    monkeypatch.setattr(dumping, "BLOCK", 2)


def made(folder, dump, batches=5, say=lambda line: None, **changes):
    task_ = task(folder, Consistency, taught=batches, dump=str(dump), **changes)
    stage = worlds.stage(batch=4, **RATIOS)
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        task_.dump_lessons((stage,), mesh, 0, str(dump), say)
    return task_, stage, mesh


def test_a_lesson_of_the_dump_is_what_the_teacher_says(folder, tmp_path, blocks):
    """The same loss as on the fly, batch for batch; the student's network is the only one in memory."""
    task_, stage, mesh = made(folder, tmp_path / "dump")
    assert task_.roles() == (STUDENT,)
    live = task(folder, Consistency)
    with jax.set_mesh(mesh):
        params = live.initial(mesh, 0)
        batches = live.stream(0, stage)
        key = jax.random.fold_in(jax.random.key(0), 0)
        asked = jax.jit(lambda b, k: live.lesson(stage, params, b, k))
        want = []
        with contextlib.closing(batches):
            for n in range(5):
                batch = worlds.on_device(next(batches))
                want.append(asked(batch, jax.random.fold_in(key, n)))
        lessons = task_.stream(0, stage)
        with contextlib.closing(lessons):
            found = [next(lessons) for _ in range(10)]
        learn = jax.jit(live.learn)
        losses = [float(learn(params, lesson, key)[0]) for lesson in want]
        again = [float(learn(params, worlds.on_device(lesson), key)[0]) for lesson in found]
    assert sorted(again[:5]) == pytest.approx(sorted(losses), rel=1e-4)
    assert again[:5] != again[5:] and sorted(again[:5]) == pytest.approx(sorted(again[5:]))
    for lesson in found:
        assert {n: lesson.batch.conditions.present[n].shape for n in ("text", "motion")} == {
            "text": (4,),
            "motion": (4,),
        }


def test_a_dump_that_was_stopped_goes_on_and_ends_in_the_same_bytes(folder, tmp_path, blocks):
    made(folder, tmp_path / "whole")

    class StopError(Exception):
        pass

    said = []

    def stop(line):
        said.append(line)
        raise StopError

    with pytest.raises(StopError):
        made(folder, tmp_path / "parts", say=stop)
    assert not (tmp_path / "parts" / "all" / "dataset.json").exists()
    more = []
    made(folder, tmp_path / "parts", say=more.append)
    assert len(said) == 1 and len(more) == 2  # three blocks
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole" / "all").iterdir()}
    parts = {p.name: p.read_bytes() for p in (tmp_path / "parts" / "all").iterdir()}
    assert whole == parts
    made(folder, tmp_path / "parts", say=more.append)
    assert len(more) == 2


def test_it_is_a_teachers_dump_as_any_other(folder, tmp_path, blocks):
    task_, _, mesh = made(folder, tmp_path / "dump")
    source = DumpSource(str(tmp_path / "dump" / "all"))
    assert len(source) == 20 and source.info.kind == "teacher"
    sample = source[3]
    assert sample.guidance == 7.5 and 0 < sample.t <= 1
    assert sample.latents is not None and sample.noise.shape == sample.v_teacher.shape
    assert float(task_.grid()[int(sample.extras["level"])]) == pytest.approx(sample.t)
    with jax.set_mesh(mesh):
        assert NEGATIVE not in task_.shapes(mesh)


def test_other_settings_are_refused(folder, tmp_path, blocks):
    made(folder, tmp_path / "dump")
    with pytest.raises(InputError, match="levels was 32, is 16"):
        made(folder, tmp_path / "dump", levels=16)
    task_, _, _ = made(folder, tmp_path / "dump")
    with pytest.raises(InputError, match="batches of 4"):
        task_.stream(0, worlds.stage(batch=8, **RATIOS))
    with pytest.raises(InputError, match="no dump"):
        task(folder, Consistency, taught=3).stream(0, worlds.stage(batch=4, **RATIOS))


def test_rows_of_any_number_of_processes_are_found(tmp_path):
    """Shards are by block and process: the place of each row, against counting them off."""
    batch, hosts, block, count = 8, 4, 3, 7
    order = [
        (k * block + j, h * (batch // hosts) + i)
        for k in range(-(-count // block))
        for h in range(hosts)
        for j in range(min(block, count - k * block))
        for i in range(batch // hosts)
    ]
    place = dumping.place
    for number, (n, row) in enumerate(order):
        assert place(n, row, batch=batch, hosts=hosts, block=block, count=count) == number
    assert len(order) == batch * count and np.unique(order, axis=0).shape[0] == len(order)
