"""Strict JAX for every test: CPU, eight devices, no silent broadcasting, shapes and types checked."""

import os

# Tests run seconds of arithmetic and minutes of compiling: LLVM's optimiser costs more than it saves.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

# Nothing is kept in the user's cache, and nothing is taken from it.
os.environ["OMNIHUMAN_CACHE"] = "off"

import jax
from jaxtyping import install_import_hook

import tests.typecheck

# Any call of the package with a wrong shape or type fails (STYLE 5.2). Before it is first imported.
install_import_hook("omnihuman_jax", f"{tests.typecheck.__name__}.check")

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
