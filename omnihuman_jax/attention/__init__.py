"""One function, several implementations, one contract: `attention`."""

from omnihuman_jax.attention.dispatch import attention

__all__ = ["attention"]
