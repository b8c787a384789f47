"""One function, several implementations, one contract: `attention`."""

from omnihuman_jax.attention.dispatch import attention, forward_mode, shared_by
from omnihuman_jax.attention.kernel import LSE, OUT
from omnihuman_jax.attention.sharded import Sharing, shares_context

__all__ = ["LSE", "OUT", "Sharing", "attention", "forward_mode", "shared_by", "shares_context"]
