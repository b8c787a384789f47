"""The only place that adapts scorers whose weights the user has to bring.

A scorer is a function from a clip's frames, its sound and its frame rate to numbers by name. One that is
not given yields nothing: its scores are then absent, which means "not scored".
"""

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from omnihuman_jax.errors import InputError

type Scorer = Callable[[np.ndarray, np.ndarray | None, float], Mapping[str, float]]
"""(frames UInt8 "F Y X 3", the clip's 16 kHz sound Float32 "samples" or None, fps) -> scores."""

QUESTIONS = {"iqa": "quality", "ase": "aesthetics"}


class QAlign:
    """Image quality ("iqa") and aesthetics ("ase") by One-Align, the mean over one frame a second.

    The answer to "How would you rate the quality of this image?", as a softmax over the logits of
    excellent, good, fair, poor, bad, weighted 5 to 1 (Q-Align, arXiv 2312.17090). The scale of the code
    that comes with the weights, and of the values that the OmniHuman line publishes (IQA about 4, ASE
    about 3); the authors' own repository divides the same into 0 to 1: s5 = 1 + 4 s01.

    `folder` holds the files of q-future/one-align, some 8 billion parameters. They run in torch through
    transformers, with the Python code in that folder, so give one that you trust; that code also asks
    the hub for its tokenizer. Neither torch nor the weights come with this package: it has never been
    run here, only what is around the network is tested.

    Raises:
        InputError: no such folder, or torch or transformers is missing.
    """

    def __init__(self, folder: str, load: Callable[[str], Any] | None = None) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise InputError(
                f"There is no One-Align model in {folder}; put the files of q-future/one-align there."
            )
        self._model = (load or _one_align)(folder)

    def __call__(
        self,
        frames: UInt8[np.ndarray, "F Y X 3"],
        sound: Float32[np.ndarray, "samples"] | None,
        fps: float,
    ) -> dict[str, float]:
        """Both scores of a clip; `sound` is not looked at."""
        shown = [Image.fromarray(frame) for frame in frames[:: max(1, math.ceil(fps))]]
        scores = {}
        for name, what in QUESTIONS.items():
            # A frame at a time: eight billion parameters leave little room beside them.
            values = [float(self._model.score([p], task_=what, input_="image")[0]) for p in shown]
            scores[name] = float(np.mean(values))
        return scores


def _one_align(folder: str) -> Any:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"q-align runs in torch: `pip install torch transformers` ({package})."
            )
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        trust_remote_code=True,
        torch_dtype=torch.float16,
        attn_implementation="eager",
        device_map="auto",
    )
