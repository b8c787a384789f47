"""Released checkpoints -> model directory -> released layouts: the same bits, or one clear line."""

import argparse
import dataclasses
import errno
import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from benchmarks import convert as benchmark
from omnihuman_jax import (
    cli,
    cli_convert,
    hub,
    orbax_layout,
    processes,
    storage,
    torch_files,
)
from omnihuman_jax.conversion import convert
from omnihuman_jax.errors import InputError
from omnihuman_jax.export import CONDITIONS, export
from omnihuman_jax.models.building import FLOAT32, flat
from omnihuman_jax.models.directory import ModelDirectory, open_directory, param_shapes, save
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT, torch_rules
from tests import released
from tests.cloud import cloud
from tests.goldens.load import load, params_of

__all__ = ["cloud"]  # a fixture


def quietly(source: Path, destination: Path, **options: Any) -> ModelDirectory:
    return convert(str(source), str(destination), progress=False, **options)


def assert_same(folder: Path, made: dict[str, dict[str, np.ndarray]]) -> None:
    """Every tensor of every network is somewhere in `folder`, with the same bits, and nothing else."""
    found = {}
    for name, files in torch_files.find_checkpoints(str(folder)):
        if not name.endswith(CONDITIONS):
            checkpoint = torch_files.open_checkpoint(name, files)
            found |= {key: tensor.read() for key, tensor in checkpoint.tensors.items()}
    expected = {key: value for tensors in made.values() for key, value in tensors.items()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape)
        assert found[key].tobytes() == value.tobytes(), key


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces so small that even tiny tensors are cut along two axes, with ragged ends."""
    monkeypatch.setattr(orbax_layout, "PIECE", 1000)
    monkeypatch.setattr(orbax_layout, "CHUNK", 300)


@pytest.mark.parametrize("shard_bytes", [None, 100_000])
@pytest.mark.parametrize("layout", ["wan", "diffusers"])
def test_there_and_back_is_the_same_bits(
    tmp_path: Path, small_pieces: None, layout: Any, shard_bytes: int | None
) -> None:
    release = released.wan_release if layout == "wan" else released.diffusers_release
    (tmp_path / "release").mkdir()
    made = release(tmp_path / "release")
    model = quietly(tmp_path / "release", tmp_path / "model")
    expected = {name: released.TINY[name] for name in made}
    if layout == "diffusers":  # has no place for the number of text tokens, in all of Wan 512
        expected["dit"] = DiTConfig.tiny(text_length=512)
    assert model.manifest.configs == expected
    assert model.manifest.tokenizer == "umt5"
    files = export(
        model.path, str(tmp_path / "back"), layout, shard_bytes=shard_bytes, progress=False
    )
    assert (len(files) > 4) == bool(shard_bytes)
    assert_same(tmp_path / "back", made)
    tokenizer = "google/umt5-xxl" if layout == "wan" else "tokenizer"
    assert storage.files(str(tmp_path / "back" / tokenizer))
    again = quietly(tmp_path / "back", tmp_path / "again")
    assert again.manifest.configs == model.manifest.configs
    for network in made:
        first, second = model.arrays(network), again.arrays(network)
        assert all(np.array_equal(first[path][...], second[path][...]) for path in first)


def test_of_several_processes_the_first_converts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released.wan_release(tmp_path / "source")
    words = ["convert", str(tmp_path / "source"), str(tmp_path / "model"), "--quiet"]
    monkeypatch.setattr(processes, "place", lambda: (1, 2))
    assert cli.main(words) == 0 and not (tmp_path / "model").exists()
    monkeypatch.setattr(processes, "place", lambda: (0, 2))
    assert cli.main(words) == 0 and open_directory(str(tmp_path / "model")).manifest.configs


def test_the_names_are_those_of_the_torch_network(tmp_path: Path) -> None:
    """The golden holds the state dict of diffusers' own WanTransformer3DModel."""
    golden = load("dit")
    weights = {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}
    released.write_pth(tmp_path / "dit.pth", weights)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    model = quietly(tmp_path / "dit.pth", tmp_path / "model")
    rules = torch_rules(model.config("dit"), "diffusers")
    loaded = flat(model.load("dit", FLOAT32))
    for path, value in params_of(golden, rules).items():
        np.testing.assert_array_equal(loaded[path], value, strict=False)


def test_every_source_file_is_named_with_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    released.wan_release(tmp_path / "release")
    model = quietly(tmp_path / "release", tmp_path / "model")
    entries = model.manifest.provenance["files"]
    assert len(entries) == 3
    for entry in entries:
        content = (tmp_path / "release" / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)


def test_an_audio_encoder_may_come_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    released.wan_release(tmp_path / "release", ["dit"])
    sound = released.tensors("audio_encoder", "transformers")
    unneeded = {"masked_spec_embed": np.zeros(16, np.float32)}
    released.write_safetensors(tmp_path / "wav2vec/model.safetensors", sound | unneeded)
    (tmp_path / "wav2vec/config.json").write_text(json.dumps({"num_attention_heads": 2}))
    model = quietly(
        tmp_path / "release", tmp_path / "model", audio_encoder=str(tmp_path / "wav2vec")
    )
    assert model.config("audio_encoder") == released.TINY["audio_encoder"]
    export(model.path, str(tmp_path / "back"), "wan", progress=False)
    assert_same(tmp_path / "back/wav2vec2", {"audio_encoder": sound})


def test_conditions_go_out_in_a_file_of_their_own_and_come_back(tmp_path: Path) -> None:
    config = DiTConfig.tiny(audio=released.AUDIO, pose=released.POSE)
    network = released.random_network(OmniHumanDiT, config)
    save(str(tmp_path / "model"), {"dit": network})
    export(str(tmp_path / "model"), str(tmp_path / "out"), "diffusers", progress=False)
    own = torch_files.open_checkpoint("", (str(tmp_path / "out" / CONDITIONS),))
    plain = param_shapes("dit", dataclasses.replace(config, audio=None, pose=None))
    assert own.tensors.keys() == flat(network).keys() - plain.keys() | {"reference_type"}
    back = quietly(tmp_path / "out", tmp_path / "again")
    assert back.config("dit") == config
    values = flat(back.load("dit", FLOAT32))
    for path, value in flat(network).items():
        np.testing.assert_array_equal(values[path], value)


# --- bad input ------------------------------------------------------------------------------------


def spoil(change: Callable[[dict[str, np.ndarray]], Any], folder: Path) -> None:
    tensors = released.tensors("dit", "wan")
    change(tensors)
    released.write_safetensors(folder / "dit.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({"num_heads": 2}))


def put(name: str, value: np.ndarray) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda tensors: tensors.__setitem__(name, value)


Q = "blocks.1.self_attn.q.weight"
NAN = np.zeros((48, 48), np.float32)
NAN[47, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("lora.up", NAN), r"1 tensors have no place \(lora.up\)"),
        (lambda t: t.pop(Q), r"1 parameters get no tensor \(blocks/self_attn/q/kernel\[1\]\)"),
        (put(Q, NAN[:, 1:]), rf"Tensor {Q} has shape \(48, 47\)"),
        (put(Q, NAN), rf"Tensor {Q} in .*dit\.safetensors holds NaN"),
        (
            put(Q, np.full((48, 48), -np.inf, np.float32)),
            rf"Tensor {Q} in .*dit\.safetensors holds NaN",
        ),
        (put(Q, np.zeros((48, 48), np.float16)), rf"Tensor {Q} is float16"),
        (put("img_emb.proj.0.weight", NAN), "image-to-video.*img_emb.proj.0.weight"),
        (put("vace_blocks.0.q", NAN), "VACE.*vace_blocks.0.q"),
        (put("patch_embedding.weight", np.zeros((48, 36, 1, 2, 2), np.float32)), "36-channel"),
        (lambda t: [t.pop(name) for name in list(t) if "embed" in name], "no network that we know"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: Any, message: str
) -> None:
    spoil(change, tmp_path)
    with pytest.raises(InputError, match=message):
        quietly(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_two_models_in_one_folder_are_refused(tmp_path: Path) -> None:
    spoil(lambda tensors: None, tmp_path)
    spoil(lambda tensors: None, tmp_path / "other")
    with pytest.raises(InputError, match=r"Two checkpoints of dit: .*dit\.safetensors and .*other"):
        quietly(tmp_path, tmp_path / "model")
    quietly(tmp_path / "other/dit.safetensors", tmp_path / "model")


def test_a_source_without_checkpoints_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="holds no checkpoint"):
        quietly(tmp_path, tmp_path / "model")
    with pytest.raises(InputError, match=r"no file or folder .*/nothing"):
        quietly(tmp_path / "nothing", tmp_path / "model")
    monkeypatch.setattr(hub, "_download", lambda name: f"downloaded {name}")
    assert hub.local("Wan-AI/Wan2.1-T2V-1.3B") == "downloaded Wan-AI/Wan2.1-T2V-1.3B"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.HTTPError("no route"), "the Hugging Face hub cannot be reached"),
        (errors.OfflineModeIsEnabled("offline"), "the Hugging Face hub cannot be reached"),
        (
            errors.RepositoryNotFoundError("gone", response=Mock()),
            "neither a path some/model here nor",
        ),
        (errors.GatedRepoError("terms", response=Mock()), "asks for its terms to be accepted"),
    ],
)
def test_a_hub_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "list_repo_files", Mock(side_effect=error))
    with pytest.raises(InputError, match=message):
        hub.local("some/model")


def test_a_destination_in_use_is_refused(tmp_path: Path) -> None:
    spoil(lambda tensors: None, tmp_path / "release")
    model = quietly(tmp_path / "release", tmp_path / "model")
    with pytest.raises(InputError, match=r"already a model directory.*--overwrite"):
        quietly(tmp_path / "release", tmp_path / "model")
    quietly(tmp_path / "release", tmp_path / "model", overwrite=True)
    with pytest.raises(InputError, match="exists and is not a model directory"):
        quietly(tmp_path / "release", tmp_path / "release")
    with pytest.raises(InputError, match="is not empty"):
        export(model.path, str(tmp_path / "release"), "wan", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "release"]


# --- interruptions --------------------------------------------------------------------------------


def fail_after(monkeypatch: pytest.MonkeyPatch, chunks: int, error: BaseException) -> None:
    write = storage.write_bytes
    written = []

    def failing(path: str, data: Any) -> None:
        if path.rpartition("/")[2].replace(".", "").isdigit():
            if len(written) == chunks:
                raise error
            written.append(path)
        write(path, data)

    monkeypatch.setattr(storage, "write_bytes", failing)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    rows = torch_files.Tensor.rows

    def counted(self: torch_files.Tensor, start: int, stop: int) -> np.ndarray:
        reads.append(self.name)
        return rows(self, start, stop)

    monkeypatch.setattr(torch_files.Tensor, "rows", counted)
    return reads


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
    ],
)
def test_an_interrupted_conversion_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, raised: type
) -> None:
    tensors = released.tensors("dit", "wan")
    spoil(lambda tensors: None, tmp_path / "release")
    with monkeypatch.context() as patched:
        fail_after(patched, 20, error)
        with pytest.raises(raised) as seen:
            quietly(tmp_path / "release", tmp_path / "model")
    if raised is InputError:
        assert "is full. Make room and give the same command again" in str(seen.value)
    assert not (tmp_path / "model").exists()
    with pytest.raises(InputError, match="not a model directory"):
        open_directory(str(tmp_path / "model.partial"))
    (tmp_path / "model.partial/dit/patch_bias/.0.1234abcd").write_bytes(b"half a chunk")
    reads = count_reads(monkeypatch)
    model = quietly(tmp_path / "release", tmp_path / "model")
    assert 0 < len(reads) <= len(tensors) - 20
    assert not (tmp_path / "model.partial").exists()
    assert not any(".1234abcd" in name for name in storage.files(model.path))
    content = (tmp_path / "release/dit.safetensors").read_bytes()
    assert model.manifest.provenance["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    export(model.path, str(tmp_path / "back"), "wan", progress=False)
    assert_same(tmp_path / "back", {"dit": tensors})


def test_another_source_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(lambda tensors: None, tmp_path / "release")
    with monkeypatch.context() as patched:
        fail_after(patched, 20, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            quietly(tmp_path / "release", tmp_path / "model")
    spoil(put(Q, np.ones((48, 48), np.float32)), tmp_path / "release")
    reads = count_reads(monkeypatch)
    model = quietly(tmp_path / "release", tmp_path / "model")
    assert Q in reads
    assert len(reads) > 60
    assert (model.arrays("dit")["blocks/self_attn/q/kernel"][1] == 1).all()


def test_a_disk_too_small_is_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(lambda tensors: None, tmp_path / "release")
    monkeypatch.setattr(storage, "free_bytes", lambda folder: 1000)
    with pytest.raises(InputError, match=r"needs 0\.0 GB more.* 0\.0 GB free"):
        quietly(tmp_path / "release", tmp_path / "model")


def test_memory_is_a_few_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 34 MB, tensors of 4 MB, stacked parameters of 8 MB, pieces of 256 kB."""
    config = DiTConfig.tiny(width=64, mlp=16384, layers=2)
    tensors = released.tensors("dit", "wan", config)
    released.write_safetensors(tmp_path / "dit.safetensors", tensors)
    del tensors
    monkeypatch.setattr(orbax_layout, "PIECE", 256 << 10)
    monkeypatch.setattr(orbax_layout, "CHUNK", 64 << 10)
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2}))
    quietly(tmp_path / "dit.safetensors", tmp_path / "first")  # imports and caches
    tracemalloc.start()
    quietly(tmp_path / "dit.safetensors", tmp_path / "model")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_the_command_converts_and_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> dict[str, Any]:
        parser = argparse.ArgumentParser()
        cli_convert.add_arguments(parser)
        cli_convert.run(parser.parse_args([*words, "--quiet", "--json"]))
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    (tmp_path / "release").mkdir()
    released.wan_release(tmp_path / "release", ["dit"])
    model, back = str(tmp_path / "model"), str(tmp_path / "back")
    result = command(str(tmp_path / "release"), model)
    assert (result["destination"], result["networks"]) == (model, ["dit"])
    assert command(model, back, "--export", "wan")["files"][0].startswith(back)
    with pytest.raises(InputError, match="do not go with --export"):
        command(model, back, "--export", "wan", "--overwrite")


@pytest.mark.slow
def test_the_benchmark_measures_and_compares(tmp_path: Path) -> None:
    result = benchmark.run("tiny", tmp_path)
    assert result["identical"]
    assert 0 < result["peak_rss_gb"] < 3
    spoiled = torch_files.find_checkpoints(str(tmp_path / "back"))[0][0]
    content = bytearray(Path(spoiled).read_bytes())
    content[-1] ^= 1
    Path(spoiled).write_bytes(content)
    assert not benchmark.identical(tmp_path / "release", tmp_path / "back")


@pytest.mark.slow
def test_from_the_cloud_and_to_the_cloud(tmp_path: Path, cloud: str) -> None:
    made = released.wan_release(tmp_path, ["dit", "text_encoder"])
    for name in storage.files(str(tmp_path)):
        storage.write_bytes(f"{cloud}/release/{name}", (tmp_path / name).read_bytes())
    model = convert(f"{cloud}/release", f"{cloud}/model", progress=False)
    rules = torch_rules(model.config("dit"), "wan")
    expected = params_of({f"weights/{k}": v for k, v in made["dit"].items()}, rules)
    loaded = flat(model.load("dit", FLOAT32))
    for path, value in expected.items():
        np.testing.assert_array_equal(loaded[path], value)
    export(f"{cloud}/model", f"{cloud}/back", "wan", progress=False)
    (tmp_path / "back").mkdir()
    for name in storage.files(f"{cloud}/back"):
        storage.write_bytes(
            str(tmp_path / "back" / name), storage.read_bytes(f"{cloud}/back/{name}")
        )
    assert_same(tmp_path / "back", made)
