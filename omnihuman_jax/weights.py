"""The names a tensor has elsewhere: rules from torch checkpoints to our parameter paths, both ways."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One tensor of a torch checkpoint and the parameter it becomes.

    `name` is the torch name and may hold `{}` for the layer number; `path` is our parameter path,
    "/" between modules. A `{}` in `name` but not in `path` means that our parameter stacks the layers
    on its first axis. `squeeze` are torch axes of size 1 that we do not have; `axes` is the
    transposition after that (our axis i is torch axis `axes[i]`), None for none.
    """

    name: str
    path: str
    axes: tuple[int, ...] | None = None
    squeeze: tuple[int, ...] = ()
