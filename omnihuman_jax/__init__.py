"""OmniHuman-1 on Wan2.1 in JAX: one reference image, plus any of text, audio and pose, in; video out."""

__version__ = "0.1.0"
