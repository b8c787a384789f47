"""Ours and the peer on the same work in one run; one JSON line last."""

from omnihuman_jax import ahead

ahead.say_if_no_chips()
