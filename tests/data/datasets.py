"""Small data sets, and ways to damage them."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from omnihuman_jax import storage
from omnihuman_jax.data import records
from omnihuman_jax.data.records import DatasetInfo, Example, ShardWriter

BFLOAT16 = ml_dtypes.bfloat16
FINGERPRINTS = {"vae": "v1", "text_encoder": "t1", "audio_encoder": "a1"}


def example(number: int = 0, *, scale: int = 1, **changes: Any) -> Example:
    """A clip of a size and with conditions that follow from its number; `scale` makes it larger."""
    rng = np.random.default_rng(number)
    frames, height, width = [(5, 16, 32), (9, 32, 32)][number % 2]
    height, width = height * scale, width * scale
    time, rows, columns = (frames + 3) // 4, height // 8, width // 8
    sound, pose = number % 3 > 0, number % 3 > 1
    fields: dict[str, Any] = {
        "id": f"videos/{number}.mp4#0.0",
        "source": f"videos/{number}.mp4",
        "text": f"Person {number} spricht – 说话",
        "latents": rng.standard_normal((time, rows, columns, 4)).astype(BFLOAT16),
        "reference": rng.standard_normal((1, rows, columns, 4)).astype(BFLOAT16),
        "text_features": rng.standard_normal((2 + number % 4, 6)).astype(BFLOAT16),
        "audio_features": rng.standard_normal((frames, 2, 3)).astype(BFLOAT16) if sound else None,
        "pose": rng.random((frames, 17, 3)).astype(np.float16) if pose else None,
        "fps": 25.0,
        "frames": frames,
        "height": height,
        "width": width,
        "teaches": frozenset(["text", "reference", *["audio"] * sound, *["pose"] * pose]),
        "scores": {"brightness": 100.0 + number, "sync_c": number / 8},
    }
    return Example(**{**fields, **changes})


def write(folder: str, *, records_: int = 12, shards: int = 3, scale: int = 1) -> DatasetInfo:
    """A finished data set called "t"; the records of its shards follow each other."""
    per_shard = records_ // shards
    for shard in range(shards):
        with ShardWriter(folder, "t", shard, shards) as out:
            for number in range(shard * per_shard, (shard + 1) * per_shard):
                out.write(example(number, scale=scale))
    info = records.info_from_shards(
        folder, "t", shards, FINGERPRINTS, fps=25.0, channels=4, settings={"lengths": [5, 9]}
    )
    records.write_info(folder, info)
    return info


def shard(number: int, shards: int = 3) -> str:
    return f"t-{number:05d}-of-{shards:05d}.tfrecord"


def same(one: Example, other: Example) -> bool:
    """Whether two examples have the same content, to the bit."""
    return records.serialize(one) == records.serialize(other)


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def copy(source: str, destination: str) -> None:
    """Copy a folder, anywhere."""
    for name in storage.files(source):
        data = storage.read_bytes(storage.join(source, name))
        storage.write_bytes(storage.join(destination, name), data)
