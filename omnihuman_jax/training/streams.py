"""The only place that makes an endless, resumable stream of a function from number to batch."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import grain

from omnihuman_jax.errors import InputError


class Numbered:
    """Batches 0, 1, 2, … of a pure function of the number, made ahead by threads (a `task.Stream`).

    Args:
        make: number -> batch, the same for the same number.
        identity: what the batches depend on; a place saved with another one is refused.
        ahead: batches made before they are asked for.
    """

    def __init__(
        self, make: Callable[[int], Any], identity: Mapping[str, Any], *, ahead: int = 4
    ) -> None:
        self._identity = dict(identity)
        self._done = 0
        options = grain.ReadOptions(num_threads=min(ahead, 2), prefetch_buffer_size=ahead)
        numbers = grain.MapDataset.source(_Endless()).map(make)
        self._iterator = iter(numbers.to_iter_dataset(options))

    def __iter__(self) -> "Numbered":
        return self

    def __next__(self) -> Any:
        batch = next(self._iterator)
        self._done += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"batches": self._done, "plan": self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a place. Raises InputError if it is one in other batches."""
        if state["plan"] != self._identity:
            raise InputError(
                f"The saved place is in batches of {state['plan']}, these are of {self._identity}."
            )
        self._done = int(state["batches"])
        self._iterator.set_state({"next_index": self._done})

    def close(self) -> None:
        self._iterator.close()


class _Endless:
    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, n: int) -> int:
        return n
