"""Face, body and hand keypoints of real people, from models that a package carries."""

from omnihuman_jax.landmarks.whole import Landmarker, Watched

__all__ = ["Landmarker", "Watched"]
