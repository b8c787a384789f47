"""Writes the original project's dump as its script does with torch.save, without torch."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.released import plain, tensor_opcodes

SAMPLES, SHAPE, CONTEXT = 3, (16, 1, 4, 6), (8, 5)


def content(seed: int = 0) -> dict[str, Any]:
    """What `dummy_data_480x832.pt` holds, smaller: noise and dummy_data are the same twice."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((SAMPLES, *SHAPE), np.float32)
    return {
        "dummy_data": noise.copy(),
        "noise": noise,
        "dummy_prompts": [f"A painter’s dance, {i}" for i in range(SAMPLES)],
        "positive_contexts": [rng.standard_normal(CONTEXT, np.float32) for _ in range(SAMPLES)],
        "negative_context": rng.standard_normal(CONTEXT, np.float32),
        "v_teacher": rng.standard_normal((SAMPLES, *SHAPE), np.float32),
    }


def write(path: Path, value: Any) -> Path:
    """Dicts, lists, plain values and arrays, as a `torch.save` archive."""
    tensors: list[np.ndarray] = []

    def opcodes(value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            tensors.append(value)
            return tensor_opcodes(len(tensors) - 1, value.shape, value.dtype)
        if isinstance(value, list):
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(plain(k) + opcodes(v) for k, v in value.items()) + b"u"
        return plain(value)

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{path.stem}/data.pkl", b"\x80\x02" + opcodes(value) + b".")
        archive.writestr(f"{path.stem}/byteorder", "little")
        for number, tensor in enumerate(tensors):
            archive.writestr(f"{path.stem}/data/{number}", tensor.tobytes())
        archive.writestr(f"{path.stem}/version", "3\n")
    return path
