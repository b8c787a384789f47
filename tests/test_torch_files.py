"""Checkpoint files are read as torch reads them, without torch, a part at a time; bad ones are refused."""

import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from omnihuman_jax.errors import InputError
from omnihuman_jax.torch_files import Checkpoint, find_checkpoints, open_checkpoint
from tests import released

GOLDENS = Path(__file__).parent / "goldens"
VALUES = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=ml_dtypes.bfloat16),
}


def only(path: Path) -> Checkpoint:
    (found,) = find_checkpoints(str(path))
    return open_checkpoint(*found)


@pytest.mark.parametrize("file", ["torch_files.pth", "torch_files_legacy.pth"])
def test_every_kind_of_view_that_torch_saves_is_read(file: str) -> None:
    """Written by torch itself: shared storages, strides, offsets, all dtypes, a scalar."""
    checkpoint = only(GOLDENS / file)
    with np.load(GOLDENS / "torch_files.npz") as expected:
        assert checkpoint.tensors.keys() == set(expected.keys()) - {"versions"}
        for name, tensor in checkpoint.tensors.items():
            value = tensor.read()
            if name == "bfloat16":
                assert value.dtype == ml_dtypes.bfloat16
                value = value.astype(np.float32)
            assert value.dtype == expected[name].dtype
            np.testing.assert_array_equal(value, expected[name], strict=True)


@pytest.mark.parametrize("name", ["plain", "transposed", "rows", "every_other", "channels_last"])
def test_rows_are_the_rows_of_the_whole(name: str) -> None:
    tensor = only(GOLDENS / "torch_files.pth").tensors[name]
    np.testing.assert_array_equal(tensor.rows(1, 2), tensor.read()[1:2])


def test_safetensors_as_the_library_writes_them(tmp_path: Path) -> None:
    save_file(VALUES, tmp_path / "x.safetensors", {"format": "pt"})
    checkpoint = only(tmp_path)
    assert checkpoint.metadata == {"format": "pt"}
    for name, value in VALUES.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), value, strict=True)
    np.testing.assert_array_equal(checkpoint.tensors["a"].rows(1, 3), VALUES["a"][1:3])


def shards(folder: Path, index: bool) -> list[str]:
    names = [f"m-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, key in zip(names, VALUES, strict=True):
        released.write_safetensors(folder / name, {key: VALUES[key]})
    if index:
        content = {"weight_map": dict(zip(VALUES, names, strict=True))}
        (folder / "m.safetensors.index.json").write_text(json.dumps(content))
    return names


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_one_checkpoint(tmp_path: Path, index: bool) -> None:
    names = shards(tmp_path, index)
    for given in [tmp_path, tmp_path / names[1]]:
        assert only(given).shapes == {"a": (3, 4), "b": (5,)}
    (tmp_path / names[1]).unlink()
    with pytest.raises(InputError, match=rf"{names[1]} is missing \(1 of 2 shards"):
        find_checkpoints(str(tmp_path))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    names = shards(tmp_path, True)
    released.write_safetensors(tmp_path / names[1], VALUES)
    with pytest.raises(InputError, match=f"Tensor a is in both .*{names[0]} and .*{names[1]}"):
        only(tmp_path)


def test_the_same_weights_in_an_older_format_are_left_out(tmp_path: Path) -> None:
    released.write_safetensors(tmp_path / "model.safetensors", VALUES)
    released.write_pth(tmp_path / "pytorch_model.bin", VALUES)
    assert only(tmp_path).name.endswith("model.safetensors")


@pytest.mark.parametrize("cut", [1, 30, 80, 300])
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_file_cut_short_is_refused(tmp_path: Path, kind: str, cut: int) -> None:
    path = tmp_path / f"x.{kind}"
    (released.write_safetensors if kind == "safetensors" else released.write_pth)(path, VALUES)
    path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - cut)])
    with pytest.raises(InputError, match=rf"x\.{kind}.*ownload it again"):
        only(path)


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    released.write_safetensors(path, VALUES)
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F8X"'))
    with pytest.raises(InputError, match="tensor a has dtype F8X; known are F64, F32"):
        only(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"[3,4]", b"[3,5]"), (b"[3,4]", b"[-3]."), (b'"shape"', b'"shake"'), (b"{", b"?")],
)
def test_a_broken_header_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "x.safetensors"
    released.write_safetensors(path, VALUES)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(InputError, match=r"x\.safetensors"):
        only(path)


@pytest.mark.parametrize(
    ("opcodes", "named"),
    [
        (b"cos\nsystem\n(X\x0b\x00\x00\x00touch ran.tt\x85R0", "os.system"),
        (b"cbuiltins\neval\n(X\x04\x00\x00\x001+1.tR0", "builtins.eval"),
        (b"cnumpy._core.multiarray\nscalar\n0", "numpy._core.multiarray.scalar"),
        (b"\x8c\x02os\x8c\x06system\x930", "os.system"),
        (b"(X\x03\x00\x00\x00runios\nsystem\n0", "os.system"),
    ],
)
def test_a_pickle_that_names_anything_but_tensors_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opcodes: bytes, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    released.write_pth(tmp_path / "x.pth", VALUES, opcodes)
    with pytest.raises(InputError, match=f"is refused: it names {named}, which is not a tensor"):
        only(tmp_path / "x.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("opcodes", [b"R", b"\x80\x09", b"ctorch\nFloatStorage\n)R0", b"X"])
def test_a_broken_pickle_is_refused(tmp_path: Path, opcodes: bytes) -> None:
    released.write_pth(tmp_path / "x.pth", VALUES, opcodes)
    with pytest.raises(InputError, match=r"x\.pth"):
        only(tmp_path / "x.pth")


@pytest.mark.parametrize("cut", [1, 300, 1000, 2200, 2500])
def test_a_legacy_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    whole = (GOLDENS / "torch_files_legacy.pth").read_bytes()
    (tmp_path / "old.pth").write_bytes(whole[:-cut])
    with pytest.raises(InputError, match=r"old\.pth (is cut short|has a pickle)"):
        only(tmp_path / "old.pth")


def test_a_legacy_pickle_that_names_anything_but_tensors_runs_nothing(tmp_path: Path) -> None:
    machines = {True: r"it names os\.system, which is not a tensor", False: "big-endian"}
    for little, match in machines.items():
        pickles = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": little}]
        head = b"".join(pickle.dumps(each, 2) for each in pickles)
        call = b"cos\nsystem\n(X\x0b\x00\x00\x00touch ran.tt\x85R." if little else b"N.N."
        (tmp_path / "old.pth").write_bytes(head + call)
        with pytest.raises(InputError, match=match):
            only(tmp_path / "old.pth")
    assert [each.name for each in tmp_path.iterdir()] == ["old.pth"]


def test_other_zip_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "old.pth").write_bytes(b"\x80\x02\x8a\nl")
    with pytest.raises(InputError, match="no file of torch"):
        only(tmp_path / "old.pth")
    (tmp_path / "old.pth").unlink()
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(InputError, match=r"not one of torch: no data\.pkl"):
        only(tmp_path / "other.pth")
    released.write_pth(tmp_path / "plain.pth", VALUES)
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(InputError, match="is compressed"):
        only(tmp_path / "packed.pth")


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_no_more_is_in_memory_than_what_is_asked_for(tmp_path: Path, kind: str) -> None:
    values = {f"t{i}": np.ones((64, 1 << 12), np.float32) for i in range(8)}  # 1 MB each
    path = tmp_path / f"x.{kind}"
    (released.write_safetensors if kind == "safetensors" else released.write_pth)(path, values)
    tracemalloc.start()
    checkpoint = only(path)
    for tensor in checkpoint.tensors.values():
        assert tensor.read().sum() == 64 << 12
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    for tensor in checkpoint.tensors.values():
        assert tensor.rows(8, 16).sum() == 8 << 12
    part = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole < 1.5 * (1 << 20)
    assert part < 0.4 * (1 << 20)
