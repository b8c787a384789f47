"""Evaluation sets as TensorFlow Datasets, without TensorFlow."""
