"""One function, several implementations, one contract: `attention`."""

from omnihuman_jax.attention.dispatch import attention, forward_mode, shared_by

__all__ = ["attention", "forward_mode", "shared_by"]
