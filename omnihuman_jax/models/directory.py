"""A model on disk: the only file that knows how a model directory is laid out (DESIGN 6.2).

`model.json` beside one folder a network: `dit/ vae/ text_encoder/ audio_encoder/`, and `tokenizer/`.
Weights are an Orbax checkpoint, or one `weights.safetensors` for a small model that is shipped.
`model.json` is written last, so a folder without it is not a model directory.
"""

import contextlib
import dataclasses
import functools
import math
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, SingleDeviceSharding

from omnihuman_jax import mesh as meshes
from omnihuman_jax import orbax_layout, storage, torch_files
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import low_precision, umt5
from omnihuman_jax.models import manifest as manifests
from omnihuman_jax.models import offload as hosts
from omnihuman_jax.models.building import FLOAT32, SCALE, Precision, flat, with_params
from omnihuman_jax.models.lazy_array import LazyArray
from omnihuman_jax.models.manifest import KINDS, SAMPLING, Manifest, Weights
from omnihuman_jax.orbax_layout import stored_paths

TOKENIZER = "tokenizer"
SAFETENSORS = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class ModelDirectory:
    """A model directory that was found whole.

    Attributes:
        elsewhere: folders of networks (and of the tokenizer) that do not lie in `path`, by name.
    """

    path: str
    manifest: Manifest
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def folder(self, name: str) -> str:
        """Where a network lies, or the tokenizer."""
        return self.elsewhere.get(name) or storage.join(self.path, name)

    def config(self, name: str) -> Any:
        """The config of a network. Raises InputError if the model has no such network."""
        if name not in self.manifest.configs:
            have = ", ".join(self.manifest.configs) or "none"
            raise InputError(f"{self.path} has no {name}; its networks are {have}.")
        return self.manifest.configs[name]

    def load(
        self,
        name: str,
        precision: Precision,
        mesh: Mesh | None = None,
        *,
        config: Any = None,
        seed: int = 0,
        offload: bool = False,
    ) -> Any:
        """A network with its weights, each device reading its own part of them.

        Args:
            name: "dit", "vae", "text_encoder" or "audio_encoder".
            precision: weights are cast to `precision.params` while they are read, and kernels that it
                keeps in 8 bits are so a few layers at a time: never is there more of them unquantised.
            mesh: where they lie, by the table in mesh.py; None for the first device.
            offload: the matrices of the transformer's blocks stay in the host's memory, and never are
                more than a layer of them on the device (offload.py).
            config: another config whose network has all parameters of the stored one and more (the
                omni-conditions, say); the others start as they do in a new network of this seed.

        Raises:
            InputError: no such network, or its weights are damaged or of other shapes.
        """
        stored_config = self.config(name)
        make = functools.partial(
            _make, KINDS[name].network, config or stored_config, precision, seed
        )
        abstract = nnx.eval_shape(make)
        targets = _targets(abstract, mesh, offload)
        folder = self.folder(name)
        safetensors = self.manifest.weights[name] == "safetensors"
        found = set(_stored_safetensors(folder) if safetensors else stored_paths(folder))
        strangers = found - targets.keys()
        lowered = {path for path in found & targets.keys() if path + SCALE in targets}
        missing = targets.keys() - found - {path + SCALE for path in lowered}
        if strangers or (missing and config is None):
            odd = ", ".join(sorted(strangers or missing)[:4])
            raise InputError(
                f"The weights in {folder} and the network differ in "
                f"{len(strangers or missing)} parameters ({odd}); convert or save the model again."
            )
        read = _read_safetensors if safetensors else _read_orbax
        try:
            # In an order that all processes of a run agree on: each parameter is work for all of them.
            params = read(folder, {path: targets[path] for path in sorted(found - lowered)})
            arrays = self.arrays(name) if lowered else {}
            for path in sorted(lowered):
                params |= _lowered(path, arrays[path], targets)
        except ValueError as why:
            line = str(why).partition("\n")[0]  # Orbax tells much more
            raise InputError(f"The weights in {folder} do not fit: {line}") from why
        return with_params(
            abstract, params | _initial(make, {path: targets[path] for path in sorted(missing)})
        )

    def arrays(self, name: str) -> dict[str, LazyArray]:
        """The parameters of a network by path, read when indexed."""
        self.config(name)
        folder = self.folder(name)
        if self.manifest.weights[name] == "safetensors":
            return {
                path: LazyArray(
                    tensor.shape,
                    tensor.dtype,
                    functools.partial(_index, tensor),
                    rows=math.prod(tensor.shape[:1]),
                )
                for path, tensor in _safetensors(folder).tensors.items()
            }
        return {
            path: LazyArray(
                array.shape,
                array.dtype.numpy_dtype,
                functools.partial(_read, array),
                rows=math.prod(array.chunk_layout.read_chunk.shape[:1]),
            )
            for path, array in orbax_layout.open_arrays(folder).items()
        }

    def tokenizer(self) -> Any:
        """The tokenizer of the text encoder. Raises InputError if the model has none."""
        kind = self.manifest.tokenizer
        if kind is None:
            raise InputError(
                f"{self.path} has no tokenizer; convert it again with google/umt5-xxl/."
            )
        if kind == umt5.BYTES:
            return umt5.Tokenizer(umt5.BYTES)
        folder = self.folder(TOKENIZER)
        if not storage.is_remote(folder):
            return umt5.Tokenizer(folder)
        with tempfile.TemporaryDirectory() as local:
            copy_folder(folder, local)
            return umt5.Tokenizer(local)


def open_directory(path: str) -> ModelDirectory:
    """The model directory at `path`, local or gs://; its weights are not read yet.

    Raises:
        InputError: it is not a model directory, or not a whole one.
    """
    manifest_path = storage.join(path, manifests.FILE)
    if not storage.is_file(manifest_path):
        raise InputError(
            f"{path} is not a model directory (no {manifests.FILE}); make one with "
            "`omnihuman convert SOURCE DESTINATION`, or finish the conversion that was interrupted."
        )
    manifest = Manifest.decode(storage.read_bytes(manifest_path), manifest_path)
    wanted = [
        f"{name}/{'_METADATA' if weights == 'orbax' else SAFETENSORS}"
        for name, weights in manifest.weights.items()
    ]
    if missing := [name for name in wanted if not storage.is_file(storage.join(path, name))]:
        raise InputError(f"{path} is not whole: {', '.join(missing)} is missing. Copy it again.")
    return ModelDirectory(path, manifest)


def save(
    path: str,
    networks: Mapping[str, Any],
    *,
    weights: Weights = "orbax",
    tokenizer: str | None = None,
    tokenizer_folder: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ModelDirectory:
    """Write networks that are in memory as a model directory; on a pod every process calls it.

    Args:
        networks: by name; each has its `config`.
        weights: "safetensors" for a small model on one process, to be shipped as a few files.
        tokenizer: "umt5" (then `tokenizer_folder` has its files), "byt5", or None.
        overwrite: replace a model directory that is already there.

    Raises:
        InputError: `path` is taken, or a network is in 8 bits.
    """
    draft = start(path, overwrite=overwrite)
    for name, network in networks.items():
        _write(storage.join(draft, name), network, weights)
    manifest = Manifest(
        configs={name: network.config for name, network in networks.items()},
        weights=dict.fromkeys(networks, weights),
        tokenizer=tokenizer,
        sampling=dict(SAMPLING) | dict(sampling or {}),
        provenance=provenance or {},
    )
    _together("model directory written")
    if jax.process_index() == 0:
        if tokenizer_folder:
            copy_folder(tokenizer_folder, storage.join(draft, TOKENIZER))
        finish(draft, path, manifest)
    _together("model directory finished")
    return ModelDirectory(path, manifest)


def replace(
    source: ModelDirectory,
    path: str,
    networks: Mapping[str, Any],
    *,
    weights: Weights = "orbax",
    sampling: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ModelDirectory:
    """Write a model directory with these networks, and with all others as `source` has them, copied.

    A model directory that is at `path` is replaced. On a pod every process calls it.
    """
    draft = start(path, overwrite=True)
    for name, network in networks.items():
        _write(storage.join(draft, name), network, weights)
    others = [name for name in source.manifest.configs if name not in networks]
    manifest = dataclasses.replace(
        source.manifest,
        configs={**source.manifest.configs, **{n: net.config for n, net in networks.items()}},
        weights={**source.manifest.weights, **dict.fromkeys(networks, weights)},
        sampling={**source.manifest.sampling, **(sampling or {})},
        provenance={
            # What was said of a network that is replaced holds no more.
            **{k: v for k, v in source.manifest.provenance.items() if k not in networks},
            **(provenance or {}),
        },
    )
    _together("model directory written")
    if jax.process_index() == 0:
        for name in [*others, *([TOKENIZER] if source.manifest.tokenizer == "umt5" else [])]:
            copy_folder(source.folder(name), storage.join(draft, name))
        finish(draft, path, manifest)
    _together("model directory finished")
    return ModelDirectory(path, manifest)


def _write(folder: str, network: Any, weights: Weights) -> None:
    if any(path.endswith(SCALE) for path in flat(network)):
        raise InputError("A network in 8 bits is not saved; save what it was loaded from.")
    if weights == "orbax":
        with ocp.StandardCheckpointer() as checkpointer:
            target = folder if storage.is_remote(folder) else str(Path(folder).absolute())
            checkpointer.save(target, _nested(flat(network)), force=True)
        return
    values = {key: np.asarray(value) for key, value in flat(network).items()}
    torch_files.write_safetensors(
        storage.join(folder, SAFETENSORS),
        {key: (value.shape, value.dtype) for key, value in values.items()},
        functools.partial(_whole, values),
    )


def _together(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def start(path: str, *, overwrite: bool) -> str:
    """Where to write a model directory that `finish` will put at `path`.

    Raises:
        InputError: `path` is a model directory (and not to be replaced) or anything else but new.
    """
    if storage.is_file(storage.join(path, manifests.FILE)):
        if not overwrite:
            raise InputError(f"{path} is already a model directory; give another, or --overwrite.")
    elif not storage.is_remote(path) and (storage.is_file(path) or storage.files(path)):
        raise InputError(f"{path} exists and is not a model directory; give a new folder.")
    # Cloud storage cannot rename a folder; there the missing model.json says that it is not whole.
    return path.rstrip("/") if storage.is_remote(path) else path.rstrip("/") + ".partial"


def finish(draft: str, path: str, manifest: Manifest) -> None:
    """Make what was written at `draft` the model directory at `path`."""
    storage.write_bytes(storage.join(draft, manifests.FILE), manifest.encode())
    if not storage.is_remote(path):
        storage.replace_folder(draft, path)


@functools.cache
def param_shapes(name: str, config: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter that the network `name` of this config has, by path."""
    abstract = nnx.eval_shape(functools.partial(_make, KINDS[name].network, config, FLOAT32, 0))
    return {path: tuple(leaf.shape) for path, leaf in flat(abstract).items()}


def initial_params(name: str, config: Any, but: Collection[str]) -> dict[str, np.ndarray]:
    """The parameters of a new network, in float32, `but` for these paths."""
    if param_shapes(name, config).keys() <= set(but):
        return {}
    make = functools.partial(_make, KINDS[name].network, config, FLOAT32, 0)
    targets = _targets(nnx.eval_shape(make), None)
    wanted = {path: target for path, target in targets.items() if path not in but}
    return {path: np.asarray(value) for path, value in _initial(make, wanted).items()}


def copy_folder(source: str, destination: str) -> None:
    """Copy files, such as those of a tokenizer or of a network that stays as it is."""
    for name in storage.files(source):
        storage.copy(storage.join(source, name), storage.join(destination, name))


def _make(network: Any, config: Any, precision: Precision, seed: int) -> Any:
    return network(config, precision, rngs=nnx.Rngs(seed))


def _targets(
    abstract: Any, mesh: Mesh | None, offload: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of every parameter, by path."""
    shapes = flat(nnx.state(abstract, nnx.Param))
    if mesh is None:
        where: dict[str, Any] = dict.fromkeys(shapes, SingleDeviceSharding(jax.local_devices()[0]))
    else:
        where = flat(meshes.shardings(nnx.state(abstract, nnx.Param), mesh))
    if offload:
        where = {path: hosts.waiting(w) if hosts.waits(path) else w for path, w in where.items()}
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where[path])
        for path, leaf in shapes.items()
    }


def _index(tensor: torch_files.Tensor, index: Any) -> np.ndarray:
    return tensor.read()[index]


def _read(array: Any, index: Any) -> np.ndarray:
    return np.asarray(array[index].read().result())


def _whole(values: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    return [values[name]]


def _nested(params: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in params.items():
        *above, name = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[name] = value
    return tree


def _read_orbax(folder: str, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    # No more in flight than the largest parameter takes in float32, else all are read at once and
    # wait, uncast, beside the network. (Orbax refuses an array that is not below the limit.)
    largest = max((4 * math.prod(target.shape) for target in targets.values()), default=0)
    limit = 1 + int(1.1 * largest / 1e9)
    wanted = _nested(targets)
    restore = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
    )
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=limit)
    with ocp.Checkpointer(handler) as checkpointer:
        source = folder if storage.is_remote(folder) else str(Path(folder).absolute())
        tree = checkpointer.restore(source, args=restore)
    found: dict[str, jax.Array] = {}
    for path in targets:
        node = tree
        for key in path.split("/"):
            node = node[key]
        found[path] = node
    return found


def _safetensors(folder: str) -> torch_files.Checkpoint:
    path = storage.join(folder, SAFETENSORS)
    return torch_files.open_checkpoint(path, (path,))


def _stored_safetensors(folder: str) -> list[str]:
    with contextlib.closing(_safetensors(folder)) as checkpoint:
        return list(checkpoint.tensors)


def _read_safetensors(
    folder: str, targets: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = {}
    with contextlib.closing(_safetensors(folder)) as checkpoint:
        for path, target in targets.items():
            value = checkpoint.tensors[path].read()
            if value.shape != target.shape:
                raise ValueError(f"{path} is {value.shape}, the network needs {target.shape}.")
            found[path] = _placed(value.astype(target.dtype), target.sharding)
    return found


def _lowered(
    path: str, array: LazyArray, targets: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """A stacked kernel in 8 bits and its scales, read and quantised a few layers at a time."""
    names = (path, path + SCALE)
    if array.shape != targets[path].shape:
        raise ValueError(f"{path} is {array.shape}, the network needs {targets[path].shape}.")
    where = tuple(targets[name].sharding for name in names)
    if where[0].memory_kind == hosts.HOST:
        return _lowered_on_host(path, array, targets)
    kind = cast(low_precision.Kind, low_precision.kind_of(targets[path].dtype))
    empty = lambda: tuple(jnp.zeros(targets[n].shape, targets[n].dtype) for n in names)
    made = jax.jit(empty, out_shardings=where)()
    put = jax.jit(functools.partial(_put, kind=kind), donate_argnums=0, out_shardings=where)
    for start in range(0, len(array), array.rows):
        layers = _placed(array[start : start + array.rows], where[0])
        made = put(made, layers, start)
    return dict(zip(names, made, strict=True))


def _lowered_on_host(
    path: str, array: LazyArray, targets: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """As `_lowered`, the codes put together in the host's memory."""
    names = (path, path + SCALE)
    made = [np.empty(targets[name].shape, targets[name].dtype) for name in names]
    encode = jax.jit(low_precision.encode, static_argnums=1)
    kind = low_precision.kind_of(targets[path].dtype)
    for start in range(0, len(array), array.rows):
        rows = slice(start, start + array.rows)
        for whole, part in zip(made, encode(array[rows], kind), strict=True):
            whole[rows] = np.asarray(part)
    return {
        name: _placed(whole, targets[name].sharding)
        for name, whole in zip(names, made, strict=True)
    }


def _put(made: Any, layers: jax.Array, start: Any, *, kind: low_precision.Kind) -> Any:
    new = low_precision.encode(layers, kind)
    pairs = zip(made, new, strict=True)
    return tuple(jax.lax.dynamic_update_slice_in_dim(a, b, start, 0) for a, b in pairs)


def _placed(value: np.ndarray, where: Any) -> jax.Array:
    """The array where it belongs; of several processes each gives its own part and asks no other."""
    if where is None or where.is_fully_addressable:
        return jax.device_put(value, where)
    return jax.make_array_from_callback(value.shape, where, lambda index: value[index])


def _initial(make: Any, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """These parameters as a new network has them; the compiler leaves out the work for all others."""
    if not targets:
        return {}

    def chosen() -> dict[str, jax.Array]:
        state = flat(make())
        return {path: state[path] for path in targets}

    where = {path: target.sharding for path, target in targets.items()}
    return jax.jit(chosen, out_shardings=where)()
