"""What libtpu is told: the TPU compiler knows every flag, and a program compiles with all of them."""

import os
import subprocess
import sys

import pytest

from omnihuman_jax import ahead
from tests.tpu.launcher import ROOT

pytestmark = pytest.mark.skipif(ahead.version() is None, reason="needs libtpu")

FLAGS = ROOT / "tpu/flags.txt"
# A matrix product over gathered weights: what the flags are about.
COMPILES = """
import sys, numpy as np, jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from omnihuman_jax import ahead
mesh = Mesh(np.array(ahead.devices(sys.argv[1])), ("fsdp",))
def shape(*dims, over): return jax.ShapeDtypeStruct(dims, jnp.bfloat16, sharding=NamedSharding(mesh, over))
x, w = shape(512, 1024, over=P("fsdp")), shape(1024, 1024, over=P("fsdp"))
print(sorted(ahead.compiled(lambda x, w: jnp.tanh(x @ w) @ w, x, w).traffic))
"""


def listed():
    """(generations, flag, reason) of every line."""
    lines = (line for line in FLAGS.read_text().splitlines() if line and not line.startswith("#"))
    return [(*line.partition("#")[0].split(), line.partition("#")[2].strip()) for line in lines]


def given(generation, **environment):
    """What worker.sh hands over, or its exit code."""
    done = subprocess.run(
        ["bash", ROOT / "tpu/worker.sh", "flags", generation],
        env={"PATH": os.environ["PATH"], "OMNIHUMAN_WORKER": "w", **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout.rstrip("\n") if done.returncode == 0 else done.returncode


def compiles(topology, flags):
    return subprocess.run(
        [sys.executable, "-c", COMPILES, topology],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": flags},
        capture_output=True,
        text=True,
    )


def test_every_flag_has_a_generation_and_a_reason():
    for generations, flag, reason in listed():
        assert set(generations.split(",")) <= {"all", *ahead.GENERATIONS} and reason
        assert flag.startswith("--") and "=" in flag


def test_they_are_handed_over_on_one_line_and_the_users_own_stand_last(tmp_path):
    root = {"OMNIHUMAN_ROOT": str(tmp_path)}
    flags = given("v6e", **root)
    assert flags.split(" ") == [
        flag for who, flag, _ in listed() if who == "all" or "v6e" in who.split(",")
    ]
    assert given("v6e", LIBTPU_INIT_ARGS="--xla_x=1", **root) == f"{flags} --xla_x=1"
    assert given("cpu", **root) == ""


@pytest.mark.parametrize("mark", ["\\", "\n"])
def test_a_backslash_or_line_break_is_refused(tmp_path, mark):
    """libtpu would stop reading there and say nothing."""
    args = {"LIBTPU_INIT_ARGS": f"--xla_a=1 {mark} --xla_b=2", "OMNIHUMAN_ROOT": str(tmp_path)}
    assert given("v6e", **args) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "generation, topology", [("v6e", "v6e:2x2"), ("v5p", "v5p:2x2x1"), ("v5e", "v5e:2x2")]
)
def test_the_compiler_knows_them_all(tmp_path, generation, topology):
    done = compiles(topology, given(generation, OMNIHUMAN_ROOT=str(tmp_path)))
    assert done.returncode == 0 and "all-gather" in done.stdout, done.stderr[-500:]


@pytest.mark.slow
def test_it_would_say_so_of_one_that_does_not_exist():
    done = compiles("v6e:2x2", "--xla_tpu_no_such_flag=true")
    assert done.returncode != 0 and "Unknown command line flag" in done.stderr
