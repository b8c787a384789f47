"""A record is a tf.train.Example that others read, and comes back to the bit or not at all."""

import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_generated_pb2 as protos

from omnihuman_jax.data import records, wire
from omnihuman_jax.data.records import parse, serialize
from omnihuman_jax.data.wire import Feature
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from tests.data.datasets import example, same


@pytest.mark.parametrize("number", range(6))
def test_an_example_comes_back_to_the_bit(number: int):
    one = example(number)
    back = parse(serialize(one))
    assert same(one, back)
    for name in records.ARRAYS:
        array = getattr(one, name)
        if array is None:
            assert getattr(back, name) is None
        else:
            assert getattr(back, name).dtype == array.dtype
            np.testing.assert_array_equal(getattr(back, name), array)
    for name in ("id", "source", "text", "fps", "frames", "height", "width", "teaches", "scores"):
        assert getattr(back, name) == getattr(one, name)


@given(
    text=st.text(),
    fps=st.floats(1, 240, width=32),
    teaches=st.sets(st.sampled_from(["text", "reference"])),
    scores=st.dictionaries(st.text(min_size=1), st.floats(-1e9, 1e9, width=32), max_size=4),
)
def test_any_words_and_numbers_come_back(text, fps, teaches, scores):
    try:
        text.encode()
        "".join(scores).encode()
    except UnicodeEncodeError:
        return  # half a character is refused, see below
    one = example(0, id=text, text=text, fps=fps, teaches=frozenset(teaches), scores=scores)
    back = parse(serialize(one))
    assert (back.id, back.text, back.fps, back.teaches, back.scores) == (
        text,
        text,
        fps,
        teaches,
        scores,
    )


def test_arrays_that_do_not_lie_in_order_are_stored_in_order():
    latents = example(0).latents
    one = example(0, latents=np.asfortranarray(latents))
    assert same(one, example(0))


def test_the_same_example_makes_the_same_bytes():
    names = ["b", "a", "ä", "c"]
    one = example(1, scores=dict.fromkeys(names, 1.0), teaches=frozenset(["text", "audio"]))
    other = example(1, scores=dict.fromkeys(names[::-1], 1.0), teaches=frozenset(["audio", "text"]))
    assert serialize(one) == serialize(other)


def test_parsing_copies_no_array():
    data = np.frombuffer(serialize(example(5)), np.uint8)
    back = parse(data)
    for name in records.ARRAYS:
        array = getattr(back, name)
        assert np.shares_memory(array, data) and not array.flags.writeable


def test_protobuf_reads_what_we_write():
    one = example(5)
    message = protos.Example.FromString(serialize(one))
    fields = message.features.feature
    assert fields["id"].bytes_list.value[:] == [one.id.encode()]
    assert fields["text"].bytes_list.value[:] == [one.text.encode()]
    assert fields["teaches"].bytes_list.value[:] == [b"text", b"reference", b"audio", b"pose"]
    assert fields["latents/shape"].int64_list.value[:] == [*one.latents.shape]
    assert fields["latents"].bytes_list.value[:] == [one.latents.tobytes()]
    assert fields["scores/sync_c"].float_list.value[:] == [5 / 8]
    assert fields["frames"].int64_list.value[:] == [one.frames]
    assert fields["fps"].float_list.value[:] == [25.0]
    expected = {*records.TEXTS, *records.NUMBERS, "fps", "teaches"}
    expected |= {f"scores/{name}" for name in one.scores}
    expected |= {name + end for name in records.ARRAYS for end in ("", "/shape")}
    assert set(fields) == expected


def test_we_read_what_protobuf_writes():
    one = example(5)
    message = protos.Example.FromString(serialize(one))
    for deterministic in (False, True):
        assert same(one, parse(message.SerializeToString(deterministic=deterministic)))


@given(
    st.dictionaries(st.text(), st.lists(st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=3)
)
def test_all_integers_are_written_and_read_as_protobuf_does(ints):
    try:
        "".join(ints).encode()
    except UnicodeEncodeError:
        return
    message = protos.Example()
    for name, values in ints.items():
        message.features.feature[name].int64_list.value[:] = values
    ours = wire.encode({name: Feature("ints", tuple(values)) for name, values in ints.items()})
    assert protos.Example.FromString(ours) == message
    theirs = wire.decode(memoryview(message.SerializeToString()))
    assert {name: list(feature.values) for name, feature in theirs.items()} == ints


def test_numbers_may_be_packed_or_not():
    """The same [1.5, 2.0] and [3, 300] as a writer from before packed fields: one field a number."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    floats = b"".join(bytes([1 << 3 | 5]) + struct.pack("<f", x) for x in (1.5, 2.0))
    ints = bytes([1 << 3, 3, 1 << 3, 0xAC, 0x02])
    entries = [("f", field(2, floats)), ("i", field(3, ints))]
    message = field(
        1, b"".join(field(1, field(1, name.encode()) + field(2, value)) for name, value in entries)
    )
    assert protos.Example.FromString(message).features.feature["i"].int64_list.value[:] == [3, 300]
    found = wire.decode(memoryview(message))
    assert (found["f"].values, found["i"].values) == ((1.5, 2.0), (3, 300))


@pytest.fixture(scope="module")
def small() -> bytes:
    return serialize(example(5))


def test_a_record_that_is_cut_short_anywhere_is_refused(small: bytes):
    for end in range(len(small)):
        with pytest.raises(InputError):
            parse(small[:end])
    words = wire.encode({"a": Feature("bytes", (b"words",))})
    for end in range(1, len(words)):
        with pytest.raises(InputError):
            wire.decode(memoryview(words[:end]))


@given(st.binary(max_size=60), st.integers(0))
def test_no_bytes_are_anything_but_an_example_or_bad_input(small, junk, where):
    where %= len(small)
    for data in (junk, small[:where] + junk + small[where + len(junk) :]):
        try:
            parse(data)
        except InputError as why:
            assert "\n" not in str(why)


def changed(**features: Any) -> bytes:
    """The record of an example with some features replaced, or removed by None."""
    message = protos.Example.FromString(serialize(example(5)))
    fields = message.features.feature
    for name, value in features.items():
        name = name.replace("__", "/")
        if name in fields:
            del fields[name]
        match value:
            case [bytes(), *_]:
                fields[name].bytes_list.value[:] = value
            case [float(), *_]:
                fields[name].float_list.value[:] = value
            case [int(), *_]:
                fields[name].int64_list.value[:] = value
    return message.SerializeToString()


@pytest.mark.parametrize(
    "features, says",
    [
        ({"id": None}, "no field 'id'"),
        ({"latents": None}, "no field 'latents'"),
        ({"latents": None, "latents__shape": None}, "no latents"),
        ({"latents__shape": None}, "no field 'latents/shape'"),
        ({"latents__shape": [3, 4, 5, 6]}, "not bfloat16[3, 4, 5, 6]"),
        ({"latents__shape": [3, 4, 4]}, "not bfloat16[3, 4, 4]"),
        ({"latents__shape": [-3, -4, 4, 4]}, "not bfloat16"),
        ({"latents__shape": [2**62, 2**62, 4, 4]}, "not bfloat16"),
        ({"pose": [b"123"]}, "3 bytes, which is not float16[9, 17, 3]"),
        ({"frames": [9.0]}, "holds floats, not ints"),
        ({"frames": [9, 9]}, "2 values, not one"),
        ({"frames": [8]}, "4n+1"),
        ({"frames": [13]}, "does not fit a clip of 13x32x32"),
        ({"height": [2**40]}, "does not fit"),
        ({"fps": [float("nan")]}, "frame rate is nan"),
        ({"fps": [0.0]}, "frame rate is 0"),
        ({"id": [b"\xff"]}, "not utf-8"),
        ({"teaches": [b"\xff"]}, "not utf-8"),
        ({"teaches": [b"depth"]}, "teaches 'depth'"),
        ({"audio_features": None, "audio_features__shape": None}, "teaches audio without"),
        ({"scores__sync_c": [float("inf")]}, "'sync_c' is no finite number"),
        ({"depth": [b"1"]}, "update omnihuman_jax"),
    ],
)
def test_a_record_that_cannot_be_is_refused_with_the_reason(features: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        parse(changed(**features))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"reference": np.zeros((1, 2, 4, 3), ml_dtypes.bfloat16)}, "reference"),
        ({"reference": np.zeros((1, 4, 2, 4), ml_dtypes.bfloat16)}, "reference"),
        ({"pose": np.zeros((4, 17, 3), np.float16)}, "pose"),
        ({"audio_features": np.zeros((4, 2, 3), ml_dtypes.bfloat16)}, "audio_features"),
        ({"width": 64}, "latents"),
        ({"teaches": frozenset(["pose"])}, "teaches pose without pose"),
        ({"scores": {"x": float("nan")}}, "'x'"),
    ],
)
def test_an_example_whose_parts_contradict_each_other_is_not_made(
    changes: dict[str, Any], says: str
):
    with pytest.raises(InputError, match=says):
        example(0, **changes)


def test_a_name_that_is_not_utf8_is_refused_when_written():
    with pytest.raises(InputError, match="rename"):
        serialize(example(0, source="\udcff.mp4"))


def test_names_of_buckets():
    assert records.parse_bucket(records.bucket_name(Grid(81, 480, 832))) == Grid(81, 480, 832)
    for name in ("81x480", "81x480x832x1", "axbxc", "8x16x16", "-81x480x832", "81x٣x16"):
        with pytest.raises(InputError):
            records.parse_bucket(name)
