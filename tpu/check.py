"""Whether this worker sees all chips of the run and sums over them are right; `launch.sh setup` asks it.

    python tpu/check.py --devices 16 --processes 4 [--everywhere]

Prints one line "ok devices=… processes=… kind=…"; exit code 1 and a line that says what is wrong otherwise.
"""

import argparse
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omnihuman_jax import processes
from omnihuman_jax.errors import InputError


def wrong(devices: int, hosts: int) -> str | None:
    """What is not as it should be, in words; None if all is."""
    if (seen := (jax.device_count(), jax.process_count())) != (devices, hosts):
        return f"sees {seen[0]} devices of {seen[1]} workers, not {devices} of {hosts}; did one not start?"
    mesh = Mesh(np.array(jax.devices()), ("all",))
    numbers = jax.make_array_from_callback(
        (devices,),
        NamedSharding(mesh, PartitionSpec("all")),
        lambda index: np.arange(devices, dtype=np.float32)[index],
    )

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=PartitionSpec("all"),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def collected(x):
        ring = [(i, (i + 1) % devices) for i in range(devices)]
        after = jax.lax.ppermute(x, "all", ring)
        return jnp.stack(
            [jax.lax.psum(x, "all")[0], jax.lax.psum(after * x, "all")[0]]
        ), jax.lax.all_gather(x, "all", tiled=True)

    sums, gathered = jax.device_get(collected(numbers))
    each = np.arange(devices)
    if (expected := (each.sum(), (each * np.roll(each, 1)).sum())) != tuple(sums):
        return f"adds up to {tuple(sums)} over all devices, not {expected}"
    if not np.array_equal(gathered, each):
        return f"gathers {gathered}, not 0 to {devices - 1}"
    return None


def main() -> int:
    """Exit code 0: all is right; 1: it is not; 2: the processes could not be joined."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--everywhere", action="store_true", help="as the machines around say")
    args = parser.parse_args()
    try:
        with processes.joined(everywhere=args.everywhere):
            if (why := wrong(args.devices, args.processes)) is not None:
                print(f"failed: this worker {why}")
                return 1
            kind = jax.devices()[0].device_kind.replace(" ", "-")
            print(f"ok devices={args.devices} processes={args.processes} kind={kind}")
    except InputError as why:
        print(f"failed: {why}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
