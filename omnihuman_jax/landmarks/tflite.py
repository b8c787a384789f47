"""The only place that runs a TensorFlow Lite model."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from omnihuman_jax.errors import InputError

# What the other modules need of a network: pixels in, some of its outputs out.
Forward = Callable[[np.ndarray], list[np.ndarray]]


class Network:
    """A model file, called with its input; gives the outputs named by number, as copies."""

    def __init__(self, path: Path, outputs: Sequence[int], threads: int = 1) -> None:
        """Raises: InputError: ai-edge-litert is not installed."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as why:
            raise InputError(
                "Landmarks need ai-edge-litert: pip install 'omnihuman_jax[data]'."
            ) from why
        self._interpreter = Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        details = self._interpreter.get_output_details()
        self._outputs = [details[number]["index"] for number in outputs]
        self._lock = threading.Lock()  # an interpreter has one set of buffers

    def __call__(self, pixels: Float32[np.ndarray, "1 S S 3"]) -> list[np.ndarray]:
        with self._lock:
            self._interpreter.set_tensor(self._input, pixels)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]
