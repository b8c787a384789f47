"""OmniHuman-1 on Wan2.1 in JAX: one reference image, plus any of text, audio and pose, in; video out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnihuman_jax.inference.pipeline import Pipeline, Video, load

__version__ = "0.1.0"
__all__ = ["Pipeline", "Video", "load"]


def __getattr__(name: str) -> Any:
    # When it is asked for, so that `omnihuman --help` does not wait for JAX.
    if name in __all__:
        from omnihuman_jax.inference import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
