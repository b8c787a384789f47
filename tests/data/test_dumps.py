"""Teacher dumps: bit for bit from torch's file to records and back, complete or refused."""

import dataclasses
import json
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnihuman_jax import storage
from omnihuman_jax.cli import main
from omnihuman_jax.data import validation
from omnihuman_jax.data.dumps import (
    DumpSource,
    TeacherSample,
    import_pt,
    parse,
    serialize,
    write_dump,
)
from omnihuman_jax.data.source import RecordSource
from omnihuman_jax.errors import InputError
from tests.cloud import cloud  # noqa: F401
from tests.data import torch_dump

FIELDS = [field.name for field in dataclasses.fields(TeacherSample)]


def sample(number=0, **changes):
    return TeacherSample(**fields(number, **changes))


def fields(number=0, **changes):
    rng = np.random.default_rng(number)
    size = (1 + number % 2, 4, 6, 2)
    usual = {
        "id": f"{number:05d}",
        "prompt": f"Prompt {number}: 你好",
        "noise": rng.standard_normal(size, np.float32),
        "v_teacher": rng.standard_normal(size, np.float32),
        "t": 0.999,
        "guidance": 7.5,
        "positive_context": rng.standard_normal((3 + number, 5), np.float32),
        "negative_context": NEGATIVE,
    }
    return {**usual, **changes}


NEGATIVE = np.random.default_rng(99).standard_normal((7, 5), np.float32)


def bits(sample):
    """Everything in a sample, arrays as type, shape and bytes."""

    def plain(value):
        if isinstance(value, np.ndarray):
            return str(value.dtype), value.shape, value.tobytes()
        return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {name: plain(getattr(sample, name)) for name in FIELDS}


def mixed():
    """Samples that use every field."""
    rng = np.random.default_rng(5)
    odd = np.array([np.nan, np.inf, -0.0, 1e-45, 3], np.float32)
    extras = {
        "times": odd,
        "path": rng.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
        "count": np.array(7, np.int64),
        "none": np.zeros((0, 4), np.uint8),
    }
    latents = rng.standard_normal((1, 4, 6, 2), np.float32)
    return [
        sample(0, extras=extras, latents=latents, context_length=2),
        sample(1),
        sample(2),
        sample(3),
    ]


def test_a_record_is_the_sample_bit_for_bit_and_no_copy():
    for each in mixed():
        data = serialize(each, 7)
        assert data == serialize(dataclasses.replace(each), 7)
        buffer = np.frombuffer(data, np.uint8)
        again = parse(buffer, NEGATIVE, 7)
        assert bits(again) == bits(each)
        assert np.shares_memory(again.noise, buffer)
    assert mixed()[0].grid.latent_shape == (1, 4, 6)


@given(st.floats(0, 1), st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=50, deadline=None)
def test_time_and_guidance_come_back_exactly(t, guidance):
    again = parse(serialize(sample(t=t, guidance=guidance), 1), NEGATIVE, 1)
    assert (again.t, again.guidance) == (t, guidance)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"v_teacher": np.zeros((1, 4, 6, 3), np.float32)}, "v_teacher"),
        ({"latents": np.zeros((2, 4, 6, 2), np.float32)}, "latents"),
        ({"negative_context": np.zeros((7, 6), np.float32)}, "one width"),
        ({"t": 999.0}, "t is 999"),
        ({"guidance": float("nan")}, "guidance"),
        ({"context_length": 4}, "3 rows"),
        ({"extras": {"a": np.zeros(2, np.complex64)}}, "complex64"),
    ],
)
def test_a_sample_that_contradicts_itself_is_refused(changes, says):
    """Some of these the tests' type checker refuses first, so the check itself is asked."""
    empty = {"latents": None, "context_length": None, "extras": {}}
    assert says in TeacherSample._problem(SimpleNamespace(**empty | fields(**changes)))
    with pytest.raises((InputError, TypeError)):
        sample(**changes)


def check_round_trip(folder):
    made = mixed()
    info = write_dump(folder, iter(made), "t", 2, settings={"model": "1.3b"})
    assert (info.kind, info.records, info.channels, info.fps) == ("teacher", 4, 2, 16.0)
    assert info.buckets == {"1x32x48": 2, "5x32x48": 2}
    source = DumpSource(folder)
    read = [source[i] for i in range(len(source))]
    assert [bits(each) for each in read] == [bits(made[i]) for i in (0, 2, 1, 3)]  # by shards
    assert bits(source[-1]) == bits(made[3])
    assert validation.validate(folder) == []
    files = storage.files(folder)
    assert sorted(files) == [
        "dataset.json", "t-00000-of-00002.index", "t-00000-of-00002.tfrecord",
        "t-00001-of-00002.index", "t-00001-of-00002.tfrecord", "t.shared",
    ]  # fmt: skip
    return {name: storage.read_bytes(storage.join(folder, name)) for name in files}


def test_records_come_back_the_same_from_disk_and_bucket(tmp_path, cloud):  # noqa: F811
    assert check_round_trip(str(tmp_path / "d")) == check_round_trip(f"{cloud}/dumps/d")


def test_what_does_not_belong_together_is_refused(tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    write_dump(a, mixed(), "t")
    other = NEGATIVE + 1
    write_dump(b, [sample(negative_context=other)], "t")
    with pytest.raises(InputError, match="a teacher's outputs; clips"):
        RecordSource(a)
    with pytest.raises(InputError, match="already"):
        write_dump(a, mixed())
    with pytest.raises(InputError, match="another negative context"):
        write_dump(str(tmp_path / "c"), [sample(0), sample(1, negative_context=other)])
    with pytest.raises(InputError, match="at least one"):
        write_dump(str(tmp_path / "c"), [])
    with pytest.raises(InputError, match="1 to 256 shards"):
        write_dump(str(tmp_path / "c"), mixed(), shards=0)
    assert not (tmp_path / "c").exists() or not [*(tmp_path / "c").iterdir()]

    (tmp_path / "a/t.shared").write_bytes((tmp_path / "b/t.shared").read_bytes())
    with pytest.raises(InputError, match="another dump"):
        DumpSource(a)[0]
    (tmp_path / "a/t.shared").unlink()
    with pytest.raises(InputError, match=r"t\.shared"):
        DumpSource(a)


def test_an_interrupted_dump_is_no_data_set(tmp_path):
    def breaks():
        yield sample(0)
        raise KeyboardInterrupt

    folder = str(tmp_path / "d")
    with pytest.raises(KeyboardInterrupt):
        write_dump(folder, breaks())
    with pytest.raises(InputError):
        DumpSource(folder)
    write_dump(folder, mixed())
    assert len(DumpSource(folder)) == 4


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_is_never_another_sample(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    if not (folder / "dataset.json").exists():
        write_dump(str(folder), mixed(), "t")
    name = data.draw(st.sampled_from(["t-00000-of-00001.tfrecord", "t.shared"]))
    whole = (folder / name).read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    (folder / name).write_bytes(damaged)
    try:
        with pytest.raises(InputError):
            source = DumpSource(str(folder))
            [source[i] for i in range(len(source))]
    finally:
        (folder / name).write_bytes(whole)


def test_the_original_dump_is_read_bit_for_bit(tmp_path):
    content = torch_dump.content()
    path = str(torch_dump.write(tmp_path / "dummy_data_480x832.pt", content))
    samples = list(import_pt(path))
    assert len(samples) == torch_dump.SAMPLES
    for i, each in enumerate(samples):
        for name in ("noise", "v_teacher"):
            back = getattr(each, name).transpose(3, 0, 1, 2)
            assert back.dtype == np.float32 and back.tobytes() == content[name][i].tobytes()
        assert each.positive_context.tobytes() == content["positive_contexts"][i].tobytes()
        assert each.negative_context.tobytes() == content["negative_context"].tobytes()
        assert each.prompt == content["dummy_prompts"][i]
        assert (each.t, each.guidance, each.latents, each.context_length) == (
            0.999,
            7.5,
            None,
            None,
        )
    content["dummy_data"][1] += 1
    real = list(import_pt(str(torch_dump.write(tmp_path / "b.pt", content))))
    assert [each.latents is None for each in real] == [True, False, True]
    assert real[1].latents.transpose(3, 0, 1, 2).tobytes() == content["dummy_data"][1].tobytes()


def test_the_command_takes_a_dump_over(tmp_path, capsys):
    content = torch_dump.content()
    path = torch_dump.write(tmp_path / "dummy_data_480x832.pt", content)
    out = str(tmp_path / "out")
    assert main(["data", "import", str(path), out, "--shards", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["records"], said["name"]) == (3, "teacher")
    source = DumpSource(out)
    assert [each.id for each in source] == ["00000", "00002", "00001"]
    assert source[2].v_teacher.transpose(3, 0, 1, 2).tobytes() == content["v_teacher"][1].tobytes()
    assert main(["data", "validate", out, "--quiet"]) == 0
    assert main(["data", "inspect", out]) == 0


def changed(**changes):
    return {**torch_dump.content(), **changes}


LONG = np.zeros((4, *torch_dump.SHAPE), np.float32)
ODD = {
    "no dump of the original": {"noise": LONG},
    "no dump of the original project: it has list": [LONG],
    "noise is str, not a tensor": changed(noise="z"),
    "noise is float16, not float32": changed(noise=LONG[:3].astype(np.float16)),
    r"v_teacher is \[4, 16": changed(v_teacher=LONG),
    r"noise is \[3, 16\]": changed(noise=np.zeros((3, 16), np.float32)),
    "are lists": changed(dummy_prompts="a"),
    "2 prompts and 3 contexts": changed(dummy_prompts=["a", "b"]),
    "not all text": changed(dummy_prompts=["a", "b", 3]),
    r"positive_contexts\[1\] is \[2, 5\]": changed(
        positive_contexts=[np.zeros((n, 5), np.float32) for n in (8, 2, 8)]
    ),
    "v_teacher.0. has values": changed(v_teacher=LONG[:3] + np.inf),
}


@pytest.mark.parametrize("says", ODD)
def test_another_file_than_their_dump_is_one_line(tmp_path, says):
    path = torch_dump.write(tmp_path / "a.pt", ODD[says])
    with pytest.raises(InputError, match=says) as caught:
        list(import_pt(str(path)))
    assert "\n" not in str(caught.value) and "a.pt" in str(caught.value)


def test_a_damaged_dump_is_one_line_and_writes_no_data_set(tmp_path, capsys):
    path = torch_dump.write(tmp_path / "a.pt", torch_dump.content())
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[:100], whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(damaged)
        assert main(["data", "import", str(path), str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "a.pt" in err, err
    assert main(["data", "import", str(tmp_path / "no.pt"), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
