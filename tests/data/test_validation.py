"""Whatever is wrong with a data set is found, all of it, and said where; what is right is passed."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data import info as dataset
from omnihuman_jax.data import records, tfrecord
from omnihuman_jax.data.records import Example, ShardWriter, bucket_name, serialize
from omnihuman_jax.data.validation import Problem, inspect, validate
from omnihuman_jax.errors import InputError
from tests.cloud import cloud
from tests.data import datasets
from tests.data.datasets import BFLOAT16, FINGERPRINTS, example, flip, shard

__all__ = ["cloud"]  # a fixture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    datasets.write(str(tmp_path / "t"))
    return tmp_path / "t"


def places(problems: list[Problem]) -> set[tuple[str, int | None]]:
    return {(problem.file, problem.record) for problem in problems}


def test_nothing_is_wrong_with_a_whole_data_set(folder: Path, cloud: str):
    assert validate(str(folder)) == []
    datasets.copy(str(folder), f"{cloud}/valid")
    assert validate(f"{cloud}/valid") == []


def test_every_problem_is_found_at_once(folder: Path, cloud: str):
    entries = [tfrecord.read_index(str(folder / shard(i))).entries for i in range(3)]
    flip(folder / shard(0), int(entries[0]["offset"][1]) + 50)  # payload
    flip(folder / shard(0), int(entries[0]["offset"][3]) - 12)  # length
    flip(folder / tfrecord.index_path(shard(1)), 60)
    flip(folder / shard(1), int(entries[1]["offset"][2]) - 1)  # checksum of the length
    with open(folder / shard(2), "r+b") as file:
        file.truncate(int(entries[2]["offset"][2]) + 7)
    shutil.copy(folder / shard(1), folder / "t-00007-of-00009.tfrecord")
    said = json.loads((folder / dataset.FILE).read_text())
    (folder / dataset.FILE).write_text(json.dumps(said | {"records": 5, "fingerprints": {}}))
    datasets.copy(str(folder), f"{cloud}/damaged")
    for where in (str(folder), f"{cloud}/damaged"):
        problems = validate(where)
        assert places(problems) == {
            (shard(0), 1),
            (shard(0), 3),
            (shard(1), None),  # its index; the shard itself at the damaged frame
            (shard(2), None),
            ("t-00007-of-00009.tfrecord", None),
            (dataset.FILE, None),
        }
        text = "\n".join(map(str, problems))
        for words in (
            f"{shard(0)}, record 1: it is damaged, its checksum is wrong",
            f"{shard(0)}, record 3: it is not what the index",
            "t-00001-of-00003.index is damaged",
            f"{shard(1)} is damaged at byte",
            f"{shard(2)} is cut short",
            "the last 2 of 4 records are cut off",
            "does not list this shard",
            "no fingerprint of the vae, and the records have its latents",
            "no fingerprint of the audio_encoder",
        ):
            assert words in text


def write(folder: Path, *examples: Example, **index: Any) -> None:
    """A data set of one shard; `index` is what its index says of every record instead of the truth."""
    with tfrecord.Writer(str(folder / shard(0, 1)), flags=STRENGTH) as out:
        for one in examples:
            out.write(
                serialize(one),
                bucket=index.get("bucket", bucket_name(one.grid)),
                flags=index.get("flags", one.teaches),
            )
    info = records.info_from_shards(str(folder), "t", 1, FINGERPRINTS, fps=25.0, channels=4)
    records.write_info(str(folder), info)


def nan(shape: tuple[int, ...], dtype: Any = BFLOAT16) -> np.ndarray:
    array = np.zeros(shape, dtype)
    array.reshape(-1)[-1] = np.nan
    return array


@pytest.mark.parametrize(
    "second, index, says",
    [
        (example(2, id=example(0).id), {}, "record 0 of t-00000-of-00001.tfrecord has the same id"),
        (example(2, fps=24.0), {}, "it has 24 frames a second, not 25"),
        (
            example(2, latents=nan((2, 2, 4, 8)), reference=None, teaches=frozenset()),
            {},
            "8 channels",
        ),
        (example(2, latents=nan((2, 2, 4, 4))), {}, "its latents are not all finite"),
        (example(2, audio_features=nan((5, 2, 3))), {}, "its audio_features are not all finite"),
        (example(2, pose=nan((5, 17, 3), np.float16)), {}, "its pose are not all finite"),
        (example(2, pose=np.full((5, 17, 3), 2, np.float16)), {}, "confidences outside 0 to 1"),
        (
            example(2, text_features=np.zeros((1, 7), BFLOAT16)),
            {},
            "its text_features are [7] wide",
        ),
        (example(2), {"bucket": "5x16x48"}, "it is of 5x16x32, and the index says 5x16x48"),
        (example(2), {"flags": {"text"}}, "and the index says ['text']"),
    ],
)
def test_a_record_that_does_not_belong_is_found(
    tmp_path: Path, second: Example, index: dict[str, Any], says: str
):
    """Every checksum is right."""
    write(tmp_path, example(0), second, **index)
    problems = validate(str(tmp_path))
    assert any(says in str(problem) and problem.record == 1 for problem in problems), problems
    assert all(problem.id for problem in problems if problem.record is not None)


def test_shards_made_by_other_encoders_are_found(tmp_path: Path):
    for number, one in enumerate(
        [example(0), example(2, text_features=np.zeros((1, 7), BFLOAT16))]
    ):
        with ShardWriter(str(tmp_path), "t", number, 2) as out:
            out.write(one)
    info = records.info_from_shards(str(tmp_path), "t", 2, FINGERPRINTS, fps=25.0, channels=4)
    records.write_info(str(tmp_path), info)
    assert places(validate(str(tmp_path))) == {(shard(1, 2), 0)}


def test_junk_in_a_good_frame_is_found(tmp_path: Path):
    with tfrecord.Writer(str(tmp_path / shard(0, 1)), flags=STRENGTH) as out:
        out.write(b"no example")
    info = records.info_from_shards(str(tmp_path), "t", 1, FINGERPRINTS, fps=25.0, channels=4)
    records.write_info(str(tmp_path), info)
    assert "record 0: The record is not a whole tf.train.Example" in str(validate(str(tmp_path))[0])


def test_an_unfinished_data_set_is_a_problem_and_none_is_an_error(folder: Path, tmp_path: Path):
    (folder / dataset.FILE).unlink()
    (folder / shard(1)).unlink()
    flip(folder / shard(2), 20)
    found = validate(str(folder))
    assert places(found) == {(dataset.FILE, None), (shard(2), 0)}
    assert "preprocessing did not finish" in found[0].what
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "nowhere"):
        with pytest.raises(InputError, match="no data set"):
            validate(str(tmp_path / nothing))


def test_a_missing_shard_is_found_and_the_others_are_read(folder: Path):
    (folder / shard(0)).unlink()
    flip(folder / shard(2), 20)
    assert places(validate(str(folder))) == {(shard(0), None), (shard(2), 0)}


def test_the_files_of_a_teacher_dump_are_checked(folder: Path):
    info = dataclasses.replace(records.read_info(str(folder)), kind="teacher", fingerprints={})
    records.write_info(str(folder), info)
    assert validate(str(folder)) == []
    assert inspect(str(folder))["kind"] == "teacher"
    flip(folder / shard(2), 20)
    assert places(validate(str(folder))) == {(shard(2), 0)}


def test_inspect_counts(folder: Path):
    found = inspect(str(folder))
    assert (found["records"], found["shards"], found["fps"]) == (12, 3, 25.0)
    assert found["bytes"] == sum(
        size for name, size in storage.files(str(folder)).items() if name.endswith(".tfrecord")
    )
    assert found["hours"] == round(6 * (5 + 9) / 25 / 3600, 6)
    assert found["conditions"]["pose"] == {"records": 4, "share": 0.3333}
    scores = found["scores"]["brightness"]  # 100 … 111
    assert scores == {
        "records": 12,
        "min": 100.0,
        "10 %": 101.1,
        "median": 105.5,
        "90 %": 109.9,
        "max": 111.0,
    }
    assert found["example"]["latents"] == "bfloat16[2, 2, 4, 4]"
    assert found["example"]["pose"] == "not there"
    assert inspect(str(folder), samples=4)["sampled"] == 4
    json.dumps(found)
