"""Evaluation sets as TensorFlow Datasets, without TensorFlow."""

from omnihuman_jax.testsets.building import SETS, Settings, build
from omnihuman_jax.testsets.reading import TestClip, TestSet, open_testset

__all__ = ["SETS", "Settings", "TestClip", "TestSet", "build", "open_testset"]
