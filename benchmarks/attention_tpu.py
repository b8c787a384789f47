"""Speed of attention kernels on TPUs that are not here, from the compiler's final schedule.

python -m benchmarks.attention_tpu [--chips v5e v5p v6e tpu7x] [--quick] [--kernels ours splash tokamax]

A TPU core runs one VLIW bundle a cycle, and a flash kernel's grid step is nearly straight-line code. So
floating-point operations of a grid step over the bundles in its schedule are a static speed, in kFLOP a
bundle; times the clock (what the chip's peak says: 1.75 GHz on v6e, for two units of 256 x 256) it would
be FLOP/s. All bundles of a kernel count, those too that run only in a sequence's first or last step. The
final schedule has one bundle for a wait of several cycles; `with_delays` counts the cycles. Left out:
waiting for memory and for instructions, the real clock, and XLA's own work around a kernel (transposes,
padding, the sum of splash's partial dq). Forward is 4 L S K operations, forward + backward
14 L S K for everybody, however many products a kernel computes again.

Each contender is given its best tiles, found by the same search over the same list; a tile that does not
fit on the chip is no candidate. bfloat16, head width 128, no mask, a length of 32,768.

- ours: no maximum subtracted where Cauchy and Schwarz bound the scores (flash_tpu.py); `ours_running` is
  what runs where they do not.
- splash: JAX's, with its fused backward. tokamax: its splash with a running maximum, base 2
  exponentials, both schedulers. tokamax_const: with a constant in the maximum's place, which nothing
  justifies: scores above it by 128 overflow. tokamax comes with the dev extras; without it it is left out.

The last line is one JSON object: by chip and pass (`fwd`, `fwd_bwd`) kFLOP a bundle of each, `ratio` of
ours to the better of splash and tokamax, `tiles`, and for each the share of MXU slots in use and of store
slots that spill registers (`mxu`, `spill`).
"""

import argparse
import concurrent.futures
import glob
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LENGTH, WIDTH = 32_768, 128
CHIPS: Mapping[str, str] = {
    "v4": "v4:2x2x1",
    "v5e": "v5e:1x1",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:1x1",
    "tpu7x": "tpu7x:1x1x1",
}
COMPARED = ("v5e", "v5p", "v6e", "tpu7x")
# Queries and keys of a tile, and keys multiplied at once.
SIZES = {
    "fwd": [
        t
        for t in itertools.product((1024, 2048), (2048, 4096), (256, 512, 1024))
        if t[0] * t[2] <= 2**20
    ],
    "bwd": [
        t
        for t in itertools.product((512, 1024), (1024, 2048), (256, 512, 1024))
        if t[0] * t[2] <= 2**19
    ]
    + [(2048, 512, 256), (2048, 1024, 256)],
    "tangent": list(itertools.product((512, 1024), (1024, 2048), (256, 512))),
}
QUICK = {"fwd": [(1024, 2048, 512)], "bwd": [(512, 1024, 512)]}
# What a kernel may use of the chip's vector memory, less a little.
VMEM_MIB = {"v4": 16, "v5e": 110, "v5p": 60, "v6e": 110, "tpu7x": 56}

Tile = tuple[int, int, int]


class Speed(NamedTuple):
    """What a schedule says.

    Attributes:
        bundles: of all kernels, for the operations of `area` scores.
        cycles: the same, a bundle that waits counted as often as it waits.
        area: queries by keys of a grid step.
        mxu, spill: share of the slots.
    """

    bundles: int
    cycles: int
    area: int
    mxu: float
    spill: float
    tile: Tile

    def per_score(self, delays: bool = True) -> float:
        return (self.cycles if delays else self.bundles) / self.area


def contenders(kernel: str, pass_: str) -> list[Callable[[Tile, str], tuple[Any, int]]]:
    """Makers of a compiled-to-be function for a tile; each returns it and the number of arguments."""
    if kernel.startswith("ours"):
        return [lambda tile, chip: _ours(tile, chip, pass_, kernel)]
    if kernel == "splash":
        return [lambda tile, chip: _splash(tile, pass_)]
    const = 10.0 if kernel == "tokamax_const" else None
    schedulers = (False, True) if pass_ == "fwd" else (False,)
    return [lambda tile, chip, s=s: _tokamax(tile, pass_, const, s) for s in schedulers]


def _ours(tile: Tile, chip: str, pass_: str, kernel: str) -> tuple[Any, int]:
    from omnihuman_jax.attention import flash_tpu
    from omnihuman_jax.attention.kernel import Mask
    from omnihuman_jax.attention.tiles import Tiles

    statistic = "running" if kernel == "ours_running" else "bound"
    tiles = Tiles(*tile, vmem=VMEM_MIB[chip], resident=VMEM_MIB[chip] // 3)
    made = flash_tpu.kernel(tiles, statistic=statistic, device=chip)
    if pass_ == "fwd":
        return (lambda *qkv: made.forward(qkv, Mask())), 3
    if pass_ == "tangent":
        return (lambda *a: made.tangent(a[:3], a[3:], Mask())), 6
    return (lambda q, k, v, out, do, lse: made.backward((q, k, v), Mask(), out, lse, do)), 5


def _splash(tile: Tile, pass_: str) -> tuple[Any, int]:
    import jax
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    q, kv, c = tile
    sizes = dict(block_q=q, block_kv=kv, block_kv_compute=c)
    if pass_ == "bwd":
        sizes = dict(
            block_q=512, block_kv=512, block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=c
        )
    mask = masks.MultiHeadMask([masks.FullMask((LENGTH, LENGTH))])
    blocks = kernel.BlockSizes(**sizes, use_fused_bwd_kernel=pass_ == "bwd")
    run = kernel.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=blocks)
    whole = lambda *qkv: jax.vmap(run)(*(x.swapaxes(1, 2) for x in qkv))
    if pass_ == "fwd":
        return whole, 3
    return (lambda q, k, v, out, do: jax.vjp(whole, q, k, v)[1](do.swapaxes(1, 2))), 5


def _tokamax(tile: Tile, pass_: str, const: float | None, scheduler: bool) -> tuple[Any, int]:
    import jax
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as kernel
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as masks

    q, kv, c = tile
    sizes = dict(block_q=q, block_kv=kv, block_kv_compute=c)
    if pass_ == "bwd":
        sizes = dict(
            block_q=512, block_kv=512, block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=c
        )
    config = kernel.SplashConfig(
        **sizes, max_logit_const=const, use_experimental_scheduler=scheduler
    )
    mask = masks.FullMask((LENGTH, LENGTH))
    run = kernel.make_splash_mha_single_device(mask, config=config)
    whole = lambda *qkv: jax.vmap(run)(*(x.swapaxes(1, 2) for x in qkv))
    if pass_ == "fwd":
        return whole, 3
    return (lambda q, k, v, out, do: jax.vjp(whole, q, k, v)[1](do.swapaxes(1, 2))), 5


def schedule(folder: str, pass_: str) -> tuple[int, int, float, float]:
    """Bundles, cycles, share of MXU slots and of spills, of the kernels that were written to `folder`."""
    bundles, cycles, used, slots, spilled, stores = 0, 0, 0, 0, 0, 0
    for path in glob.glob(f"{folder}/*_hlo-static-per-bundle-utilization.txt"):
        name = os.path.basename(path)
        if not any(word in name for word in ("flash_", "splash_")):
            continue
        if pass_ == "bwd" and "fwd" in name:
            continue  # the forward kernel, which is run again for its log-sum-exp
        with open(path) as file:
            lines = file.read().splitlines()
        if "pre-delay" in name:
            cycles += len(lines) - 4
        if "final" not in name:
            continue
        names = [word.strip() for word in lines[1].split(",")]
        room = dict(zip(names, map(int, lines[2].split()), strict=True))
        mxu, store, spill = (names.index(n) for n in ("MXU", "VSTORE", "VSTORE:SPILL"))
        for line in lines[4:]:
            row = [int(n) for n in line.split()]
            bundles, used, slots = bundles + 1, used + row[mxu], slots + room["MXU"]
            spilled, stores = spilled + row[spill], stores + row[store]
    if not bundles or cycles < bundles:
        raise RuntimeError(f"No schedule of a kernel among {os.listdir(folder)[:5]}.")
    return bundles, cycles, used / slots, spilled / max(stores, 1)


def search(chip: str, kernel: str, pass_: str, sizes: Sequence[Tile]) -> list[Speed]:
    """What the tiles do that compile. For a process of its own."""
    folder = tempfile.mkdtemp()
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        ALLOW_MULTIPLE_LIBTPU_LOAD="true",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        LIBTPU_INIT_ARGS=f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true",
    )
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies

    more = {"chip_config_name": "megacore"} if chip == "v4" else {}
    topology = topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip], **more)
    mesh = jax.sharding.Mesh(topology.devices[:1], ("x",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    x = jax.ShapeDtypeStruct((1, LENGTH, 1, WIDTH), jnp.bfloat16, sharding=place)
    lse = jax.ShapeDtypeStruct((1, 1, LENGTH), jnp.float32, sharding=place)
    limit = {"xla_tpu_scoped_vmem_limit_kib": str(VMEM_MIB[chip] << 10)}
    found = []
    for make, tile in itertools.product(contenders(kernel, pass_), sizes):
        shutil.rmtree(folder)
        os.mkdir(folder)
        try:
            run, count = make(tile, chip)
            arguments = [x] * count + ([lse] if count == 5 and kernel.startswith("ours") else [])
            with jax.set_mesh(mesh):  # tokamax asks it for the device
                jax.jit(run).lower(*arguments).compile(limit)
            bundles, cycles, mxu, spill = schedule(folder, pass_)
        except Exception as why:  # noqa: BLE001  whatever a contender or the compiler says, the next goes on
            print(f"{chip} {kernel} {pass_} {tile}: {_reason(why)}", file=sys.stderr, flush=True)
            continue
        found.append(Speed(bundles, cycles, tile[0] * tile[1], mxu, spill, tile))
        print(
            f"{chip} {kernel} {pass_} {tile}: {bundles} bundles, {cycles} cycles, "
            f"{_flops(pass_) / found[-1].per_score() / 1e3:.1f} kFLOP each, mxu {mxu:.2f}, spill {spill:.2f}",
            file=sys.stderr,
            flush=True,
        )
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _reason(why: Exception) -> str:
    text = str(why)
    return (
        "does not fit"
        if "RESOURCE_EXHAUSTED" in text
        else (text.splitlines() or [repr(why)])[0][:200]
    )


def _flops(pass_: str) -> int:
    """Floating-point operations of one score: two products forward, five backward."""
    return {"fwd": 4, "bwd": 10, "fwd_bwd": 14, "tangent": 12}[pass_] * WIDTH


def ask(chip: str, kernel: str, pass_: str, sizes: Sequence[Tile]) -> list[Speed]:
    """`search` in a process of its own: the compiler reads its flags only once."""
    command = [sys.executable, "-m", "benchmarks.attention_tpu", "--worker", chip, kernel, pass_]
    done = subprocess.run([*command, json.dumps(sizes)], capture_output=True, text=True)
    for line in done.stderr.splitlines():
        if line.startswith(f"{chip} {kernel}"):
            print(line, file=sys.stderr, flush=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [
        Speed(*row[:-1], tile=tuple(row[-1])) for row in json.loads(done.stdout.splitlines()[-1])
    ]


def table(
    speeds: Mapping[tuple[str, str, str], Sequence[Speed]], chips: Iterable[str], delays: bool
) -> dict[str, Any]:
    """The result by chip and pass, with the tiles that are best when delays count or do not."""
    result: dict[str, Any] = {}
    kernels = sorted({kernel for _, kernel, _ in speeds})
    cost = lambda speed: speed.per_score(delays)
    for chip, (pass_, parts) in itertools.product(
        chips, (("fwd", ("fwd",)), ("fwd_bwd", ("fwd", "bwd")))
    ):
        row: dict[str, Any] = {"tiles": {}, "mxu": {}, "spill": {}}
        for kernel in kernels:
            found = [min(speeds.get((chip, kernel, p), ()), key=cost, default=None) for p in parts]
            if any(speed is None for speed in found):
                row[kernel] = None
                continue
            known = [speed for speed in found if speed is not None]
            total = sum(map(cost, known))
            row[kernel] = round(_flops(pass_) / total / 1e3, 1)
            row["tiles"][kernel] = [s.tile for s in known]
            row["mxu"][kernel] = round(sum(s.mxu * cost(s) for s in known) / total, 3)
            row["spill"][kernel] = round(sum(s.spill * cost(s) for s in known) / total, 3)
        ours, peers = row.get("ours"), [row[k] for k in ("splash", "tokamax") if row.get(k)]
        row["ratio"] = round(ours / max(peers), 3) if peers and ours else None
        if row.get("tokamax_const") and ours:
            row["ratio_const"] = round(ours / row["tokamax_const"], 3)
        result.setdefault(chip, {})[pass_] = row
    return result


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        chip, kernel, pass_, sizes = sys.argv[2:]
        found = search(chip, kernel, pass_, [tuple(size) for size in json.loads(sizes)])
        print(json.dumps(found))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--chips",
        nargs="+",
        choices=CHIPS,
        default=list(COMPARED),
        metavar="CHIP",
        help="(default: all)",
    )
    known = ["ours", "ours_running", "splash", "tokamax", "tokamax_const"]
    add("--kernels", nargs="+", choices=known, default=known, metavar="NAME", help="(default: all)")
    add("--quick", action="store_true", help="one tile each instead of the search")
    add("--jobs", type=int, default=os.cpu_count(), help="compilers at a time (default: cores)")
    args = parser.parse_args()
    kernels = [k for k in args.kernels if "tokamax" not in k or importlib.util.find_spec("tokamax")]
    sizes = QUICK if args.quick else SIZES
    same = {("ours_running", "bwd"): "ours", ("tokamax_const", "bwd"): "tokamax"}  # has no maximum
    work = list(itertools.product(args.chips, kernels, ("fwd", "bwd")))
    asked = [job for job in work if job[1:] not in same or same[job[1:]] not in kernels]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        speeds = dict(
            zip(asked, pool.map(lambda job: ask(*job, sizes[job[2]]), asked), strict=True)
        )
    for chip, kernel, pass_ in set(work) - set(asked):
        speeds[chip, kernel, pass_] = speeds[chip, same[kernel, pass_], pass_]
    result = {"length": LENGTH, "width": WIDTH, "kernels": kernels}
    result |= table(speeds, args.chips, delays=False)
    print(json.dumps(result | {"with_delays": table(speeds, args.chips, delays=True)}))


if __name__ == "__main__":
    main()
