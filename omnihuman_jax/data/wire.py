"""The only file that knows the bytes of a tf.train.Example: names of features → bytes, floats or ints.

Protocol buffers' encoding (protobuf.dev/programming-guides/encoding) of five messages:

    Example   { Features features = 1; }
    Features  { map<string, Feature> feature = 1; }        an entry is { string key = 1; Feature value = 2; }
    Feature   { oneof { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
    BytesList { repeated bytes value = 1; }       FloatList, Int64List { repeated float, int64 value = 1; }

A field is a varint `number << 3 | type`, then a varint (type 0), eight bytes (1), a varint length and
as many bytes (2), or four bytes (5). Large values are views of the bytes they were read from.
"""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from omnihuman_jax.errors import InputError

LENGTH = 2  # the type of a field that says how long it is
PACKED, FLOAT, INT = 1 << 3 | LENGTH, 1 << 3 | 5, 1 << 3  # tags of field 1 of a list of numbers


class Feature(NamedTuple):
    """One value of an Example: `kind` is "bytes" (each a view), "floats" or "ints"."""

    kind: str
    values: tuple[Any, ...]


KINDS = ("bytes", "floats", "ints")  # field 1, 2 and 3 of Feature


def encode(features: Mapping[str, Feature]) -> bytes:
    """The Example, its features in the order of their names: the same features, the same bytes."""
    entries: list[Any] = []
    for name in sorted(features):
        feature = features[name]
        number = KINDS.index(feature.kind) + 1
        one = _message(number, _values(feature))
        entries += _message(1, [*_message(1, [name.encode()]), *_message(2, one)])
    return b"".join(_message(1, entries))


def _values(feature: Feature) -> list[Any]:
    match feature.kind:
        case "bytes":
            return [piece for value in feature.values for piece in _message(1, [value])]
        case "floats":
            return _message(1, [struct.pack(f"<{len(feature.values)}f", *feature.values)])
        case _:
            return _message(1, [b"".join(_varint(v % 2**64) for v in feature.values)])


def _message(number: int, pieces: list[Any]) -> list[Any]:
    """A length-delimited field; its pieces are joined once, at the end."""
    size = sum(map(len, pieces))
    return [_varint(number << 3 | LENGTH) + _varint(size), *pieces]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: memoryview) -> dict[str, Feature]:
    """The features of an Example.

    Every part must end where the one around it does, so that nothing can be cut off unseen.

    Raises:
        InputError: these bytes are no Example, or a feature is there twice.
    """
    found: dict[str, Feature] = {}
    try:
        at, end = _content(data, 0, 1)
        _check(end == len(data))
        while at < end:
            start, at = _content(data, at, 1)
            start, stop = _content(data, start, 1)
            name = str(data[start:stop], "utf-8")
            start, stop = _content(data, stop, 2)
            _check(stop == at and name not in found)
            found[name] = _feature(data, start, stop)
        _check(at == end)
    except (IndexError, ValueError) as why:
        raise InputError("The record is not a whole tf.train.Example.") from why
    return found


def _feature(data: memoryview, at: int, end: int) -> Feature:
    number = data[at] >> 3
    at, stop = _content(data, at, number)
    _check(1 <= number <= 3 and stop == end)
    values: list[Any] = []
    while at < end:
        if number == 1:
            start, at = _content(data, at, 1)
            values.append(data[start:at])
        elif data[at] == PACKED:
            start, at = _content(data, at, 1)
            values += _floats(data[start:at]) if number == 2 else _ints(data, start, at)
        elif number == 2:  # numbers need not be packed: each may be a field of its own
            _check(data[at] == FLOAT)
            values += _floats(data[at + 1 : at + 5])
            at += 5
        else:
            _check(data[at] == INT)
            value, at = _read_varint(data, at + 1)
            values.append(_signed(value))
    _check(at == end)
    return Feature(KINDS[number - 1], tuple(values))


def _floats(part: memoryview) -> tuple[float, ...]:
    _check(len(part) % 4 == 0)
    return struct.unpack(f"<{len(part) // 4}f", part)


def _ints(data: memoryview, at: int, end: int) -> list[int]:
    found = []
    while at < end:
        value, at = _read_varint(data, at)
        found.append(_signed(value))
    _check(at == end)
    return found


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _check(whole: bool) -> None:
    if not whole:
        raise IndexError


def _content(data: memoryview, at: int, number: int) -> tuple[int, int]:
    """Start and end of what is in field `number`, which starts `at` and says how long it is."""
    _check(data[at] == number << 3 | LENGTH)
    size = data[at + 1]
    if size < 128:  # most are
        return at + 2, at + 2 + size
    size, at = _read_varint(data, at + 1)
    return at, at + size


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The varint that starts `at`, and where it ends."""
    if data[at] < 128:  # most are
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError("a varint has at most ten bytes")
