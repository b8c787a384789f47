"""A parameter that stays on disk until a part of it is asked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LazyArray:
    """A parameter on disk: `array[3]` or `array[3, :, 5:9]` reads that part (and its chunks).

    Attributes:
        rows: of the first axis that lie in one chunk, and so are best read at once.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Any], np.ndarray]
    rows: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.read(index)
