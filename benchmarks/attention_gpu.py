"""Speed of attention kernels on a GPU: ours (cuDNN), tokamax's, Pallas' FlashAttention-3, and chunked.

    python -m benchmarks.attention_gpu [--only ours …] [--cases 1.3b 14b text sound] [--repeats 5]

bfloat16, head width 128, no mask, batch 1. Cases: "1.3b" is Wan's self-attention over 81 frames of 480x832
(12 heads, 32,760 tokens), "14b" that over 81 frames of 720x1280 (40 heads, 75,600 tokens; forward only),
"text" the first with 512 keys, "sound" with the 4 keys of each latent frame, where flash_gpu leaves the
work to XLA (FEW): here it is asked all the same, to see whether it should. Forward is 4 L S K operations
a head, forward + backward 14, however many products a kernel computes again.

- ours: flash_gpu.py through `kernel.attend`, as the network calls it.
- tokamax (optional, `pip install tokamax`): the fastest of its implementations, with the settings it ships.
- pallas: JAX's `attention_mgpu`, for Hopper, the fastest of a few block sizes; its lengths are multiples
  of 256, so it is given that many tokens, and its TFLOP/s count them.
- chunked and reference: ours without a kernel, where they take no minutes.

Each contender runs in its own process. `error` is the largest difference from chunked attention in float32
on 256 queries of one head, of the output, and for forward + backward of the gradient of q.

The last line is one JSON object: `measured`, `device`, `cases`: for each case and pass the contenders'
`ms`, `tflops`, `error` and `of` (which implementation or block sizes), or `failed` with the reason, and
`ratio` of our TFLOP/s to the best other's. Without a GPU: {"measured": false, "why": …}.
To compare with: cuDNN alone through JAX, at 638 TFLOP/s forward and 577 forward + backward on an H100 with
12 heads and 32,768 tokens. The order of all commands for a GPU is in benchmarks/dit.py.
"""

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, SLICE = 128, 256
Attend = Callable[..., Any]  # q, k, v [B L N K] -> [B L N K], with gradients


class Case(NamedTuple):
    clips: int
    queries: int
    keys: int
    heads: int
    passes: tuple[str, ...] = ("fwd", "fwd_bwd")
    slow: tuple[str, ...] = ()  # contenders that would take minutes

    def flops(self, pass_: str) -> float:
        scores = self.clips * self.heads * self.queries * self.keys
        return {"fwd": 4.0, "fwd_bwd": 14.0}[pass_] * scores * WIDTH


CASES: Mapping[str, Case] = {
    "1.3b": Case(1, 32_760, 32_760, 12, slow=("reference",)),
    "14b": Case(1, 75_600, 75_600, 40, ("fwd",), slow=("reference", "chunked")),
    "text": Case(1, 32_760, 512, 12, slow=("pallas",)),
    "sound": Case(21, 1_560, 4, 12, slow=("pallas",)),
}
CONTENDERS = ("ours", "tokamax", "pallas", "chunked", "reference")


def candidates(contender: str, case: Case) -> Iterator[tuple[str, Case, Attend]]:
    """Name, case (its lengths may be longer) and function of everything to try."""
    from omnihuman_jax.attention.chunked import CHUNKED
    from omnihuman_jax.attention.flash_gpu import FLASH_GPU
    from omnihuman_jax.attention.kernel import Mask, attend
    from omnihuman_jax.attention.reference import reference

    if contender == "ours":
        yield "cudnn", case, lambda *qkv: attend(FLASH_GPU, qkv, Mask())
    elif contender == "chunked":
        yield "xla", case, lambda *qkv: attend(CHUNKED, qkv, Mask())
    elif contender == "reference":
        yield "xla", case, reference
    elif contender == "tokamax":
        import tokamax

        for name in ("mosaic", "triton", "cudnn"):
            yield name, case, functools.partial(tokamax.dot_product_attention, implementation=name)
    else:
        yield from _pallas(case)


def _pallas(case: Case) -> Iterator[tuple[str, Case, Attend]]:
    from jax.experimental.pallas.ops.gpu import attention_mgpu as mgpu

    even = lambda length: -(-length // 256) * 256
    longer = case._replace(queries=even(case.queries), keys=even(case.keys))
    backward = dict(block_q_dkv=64, block_kv_dkv=64, block_q_dq=64, block_kv_dq=64)
    for keys, steps, groups in ((128, 2, 1), (128, 2, 2), (128, 3, 1), (64, 4, 1), (256, 2, 1)):
        config = mgpu.TuningConfig(64, keys, steps, compute_wgs_bwd=groups, **backward)
        name = f"block_kv {keys}, {steps} steps, {groups} groups backward"
        yield name, longer, lambda *qkv, config=config: mgpu.attention(*qkv, config)


def run(contender: str, case: Case, pass_: str, repeats: int) -> dict[str, Any]:
    """The fastest candidate that works: milliseconds, TFLOP/s, error; or why none does."""
    best: dict[str, Any] = {}
    failed = ""
    for name, own, attend in candidates(contender, case):
        try:
            seconds, error = measure(attend, own, pass_, repeats)
        except Exception as why:  # noqa: BLE001  whatever a contender says, the next one goes on
            failed = f"{name}: {type(why).__name__}: {(str(why).splitlines() or [''])[0]}"[:300]
            print(f"{contender} {pass_} {failed}", file=sys.stderr, flush=True)
            continue
        tflops = own.flops(pass_) / seconds / 1e12
        if tflops > best.get("tflops", 0):
            best = {"ms": round(1e3 * seconds, 3), "tflops": round(tflops, 3)}
            best |= {"error": float(f"{error:.2g}"), "of": name}
    return best or {"failed": failed}


def measure(attend: Attend, case: Case, pass_: str, repeats: int) -> tuple[float, float]:
    """Median seconds of a call, and the error on a slice."""
    import jax
    import jax.numpy as jnp

    q, k, v, weight = _inputs(case)

    def loss(q: Any, k: Any, v: Any, weight: Any) -> Any:
        return jnp.sum(attend(q, k, v).astype(jnp.float32) * weight.astype(jnp.float32))

    # The gradient alone: the forward pass is run for its output and log-sum-exp.
    function = jax.jit(attend if pass_ == "fwd" else jax.grad(loss, (0, 1, 2)))
    given = (q, k, v) if pass_ == "fwd" else (q, k, v, weight)
    got = jax.block_until_ready(function(*given))
    began = time.perf_counter()
    jax.block_until_ready(function(*given))
    # So many at once that starting a call does not count.
    calls = max(1, min(20, int(0.1 / (time.perf_counter() - began))))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            out = function(*given)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - began) / calls)
    first = got if pass_ == "fwd" else got[0]
    return statistics.median(times), _error(first, (q, k, v), weight, pass_)


def _inputs(case: Case) -> tuple[Any, Any, Any, Any]:
    import jax
    import jax.numpy as jnp

    def draw(key: Any, length: int) -> Any:
        shape = (case.clips, length, case.heads, WIDTH)
        return jax.random.normal(key, shape, jnp.bfloat16)

    keys = jax.random.split(jax.random.key(0), 4)
    lengths = (case.queries, case.keys, case.keys, case.queries)
    return tuple(draw(key, length) for key, length in zip(keys, lengths, strict=True))


def _error(got: Any, qkv: Any, weight: Any, pass_: str) -> float:
    """Of the output or the gradient of q, against chunked attention in float32."""
    import jax
    import jax.numpy as jnp

    from omnihuman_jax.attention.chunked import CHUNKED
    from omnihuman_jax.attention.kernel import Mask

    q, k, v = (x[:1, :, :1].astype(jnp.float32) for x in qkv)
    q, weight = q[:, :SLICE], weight[:1, :SLICE, :1].astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        want, lse = CHUNKED.forward((q, k, v), Mask())
        if pass_ == "fwd_bwd":
            want = CHUNKED.backward((q, k, v), Mask(), want, lse, weight)[0]
    return float(jnp.max(jnp.abs(got[:1, :SLICE, :1].astype(jnp.float32) - want)))


def worker(contender: str, cases: Sequence[str], repeats: int) -> dict[str, Any]:
    """All cases of one contender, in this process."""
    return {
        name: {
            pass_: {"failed": "would take minutes"}
            if contender in CASES[name].slow
            else run(contender, CASES[name], pass_, repeats)
            for pass_ in CASES[name].passes
        }
        for name in cases
    }


def ask(contender: str, cases: Sequence[str], repeats: int) -> dict[str, Any]:
    """The same in a process of its own: an error in a kernel ends it."""
    command = [sys.executable, "-m", "benchmarks.attention_gpu", "--worker", contender]
    command += ["--repeats", str(repeats), "--cases", *cases]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode == 0:
        return json.loads(ran.stdout.splitlines()[-1])
    why = {"failed": f"its process ended with {ran.returncode}"}
    return {name: dict.fromkeys(CASES[name].passes, why) for name in cases}


def device() -> tuple[str | None, str]:
    """The kind of GPU that JAX sees, and if none, why; in another process, as this one shall hold none."""
    program = (
        "import jax; d = jax.devices()[0]; "
        "print(d.device_kind if d.platform not in ('cpu', 'tpu') else f'!JAX sees {d.platform}')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    said = (ran.stdout if ran.returncode == 0 else ran.stderr).strip().splitlines() or ["nothing"]
    if ran.returncode or said[-1].startswith("!"):
        return None, f"no GPU: {said[-1].lstrip('!')}"
    return said[-1], ""


def table(found: Mapping[str, Mapping[str, Any]], cases: Sequence[str]) -> dict[str, Any]:
    """By case and pass, with our speed over the best other's."""
    result: dict[str, Any] = {}
    for name in cases:
        for pass_ in CASES[name].passes:
            row = {contender: by_case[name][pass_] for contender, by_case in found.items()}
            ours = row.get("ours", {}).get("tflops")
            others = [x["tflops"] for c, x in row.items() if c != "ours" and "tflops" in x]
            row["ratio"] = round(ours / max(others), 3) if ours and others else None
            result.setdefault(name, {})[pass_] = row
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME",
        help=f"of {', '.join(CONTENDERS)} (default: all)")  # fmt: skip
    add("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE",
        help=f"of {', '.join(CASES)} (default: all)")  # fmt: skip
    add("--repeats", type=int, default=5, metavar="N", help="(default: 5)")
    add("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats is at least 1, got {args.repeats}.")
    if args.worker:
        print(json.dumps(worker(args.worker, args.cases, args.repeats)))
        return
    kind, why = device()
    if kind is None:
        print(json.dumps({"measured": False, "why": why}))
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    known = [c for c in args.only if c != "tokamax" or importlib.util.find_spec("tokamax")]
    found = {contender: ask(contender, args.cases, args.repeats) for contender in known}
    print(json.dumps({"measured": True, "device": kind, "cases": table(found, args.cases)}))


if __name__ == "__main__":
    main()
