"""The mathematics mixes no dtypes by accident (STYLE 7: strict promotion here and in attention only)."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        yield
