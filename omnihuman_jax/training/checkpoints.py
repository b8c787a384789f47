"""The only place that saves and restores a run: asynchronously, on disk or gs://, on any number of hosts.

Which checkpoint wins when a run starts:

1. Candidates are the folders `step_NNNNNNNN`, the highest step first.
2. One without a manifest was never finished (the manifest is what a save writes last, and what goes
   first when a checkpoint is removed): it is skipped with a warning.
3. One whose manifest or files are not as they were written (missing, another size, and on disk another
   crc32c; gs:// guards the bytes that it stores by itself) is damaged: skipped with a warning.
4. The first that is whole must be of this very state: the same paths, shapes and dtypes. If not, the
   run stops and names what differs. Older ones are not looked at: nothing is damaged, the config is
   another one.
5. If Orbax cannot read it nevertheless, it is skipped with a warning. (On several processes the run
   stops, for the others cannot know; starting it again tries again.)
6. If none is left and one was ever finished, the run stops: it never starts anew in silence. If none
   was, there is nothing to lose, and it starts anew.
7. All processes take what process 0 chose, and one that finds damage in its share of the files makes
   all of them skip it.

And when one is saved:

8. A folder is only ever removed if it was never finished, if it was found damaged, or once a newer one
   is whole and `keep` whole ones remain. On disk "whole" means flushed, so that a power failure cannot
   take back the new one after the old ones went.
9. What is there of the same step, left by a run that was stopped or found damaged, is replaced; what
   this object saved or restored itself is left as it is. A whole checkpoint of this or a later step
   that it did not restore belongs to another run: refused.
10. A save that fails leaves nothing behind, and its failure is raised once, by the next call.
"""

import contextlib
import errno
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import checkpoint_rules as rules

log = logging.getLogger(__name__)

CHUNK = 64 << 20  # bytes of a stored piece: what a host reads at least, if the mesh is another one
NO_ROOM = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
NONE = -1  # in place of a step, between processes


@dataclass(frozen=True)
class Restored:
    """A checkpoint: the state, laid out as was asked, and beside it the JSON values."""

    step: int
    state: Any
    data: dict[str, Any]
    config: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. On several processes all call every method, in the same order."""

    def __init__(self, folder: str, *, keep: int = 3) -> None:
        """`folder` (local, then seen by all processes, or gs://) need not be there; `keep` at least 1."""
        if keep < 1:
            raise InputError(f"A run keeps at least 1 checkpoint, got {keep=}.")
        self.folder = folder if storage.is_remote(folder) else str(Path(folder).absolute())
        self._keep = keep
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        self._own: set[int] = set()  # steps saved or restored here
        self._damaged: dict[int, str] = {}
        logging.getLogger("absl").addFilter(_is_news)

    def save(
        self, step: int, state: Any, data: Mapping[str, Any], config: Mapping[str, Any]
    ) -> None:
        """Begin to save; returns once the arrays are copied to the host, so they may be donated.

        Args:
            state: a pytree of arrays.
            data: where the run is in its data, as JSON; of process 0, as `config`.

        Raises:
            InputError: the save before failed, the folder holds another run, or `data` or `config` has
                what JSON cannot hold.
            ConnectionError: the save before failed, as gs:// did not answer.
        """
        texts = {
            rules.DATA: rules.encode_json(data, "data"),
            rules.CONFIG: rules.encode_json(config, "config"),
        }
        self.wait()
        if step in self._own:
            return
        failure = None
        if jax.process_index() == 0:
            try:
                self._make_way(step)
            except (InputError, OSError) as why:
                failure = why
        self._raise_together(failure)
        flat = rules.by_path(state)
        size = rules.total_bytes(flat)
        arrays = {
            path: leaf if isinstance(leaf, jax.Array) else np.array(leaf)
            for path, leaf in rules.filled(flat).items()
        }
        chunks = dict.fromkeys(arrays, ocp.SaveArgs(chunk_byte_size=CHUNK))
        with self._undone(step, size):
            self._orbax.save(self._state(step), args=ocp.args.PyTreeSave(arrays, save_args=chunks))
        self._saving = self._worker.submit(self._finish, step, texts, rules.describe(flat), size)

    def wait(self) -> None:
        """Until the last save is whole. Raises what `save` raises for it, once."""
        failure = self._saving.exception() if self._saving else None
        self._saving = None
        self._raise_together(failure)

    def restore(self, abstract: Any) -> Restored | None:
        """The newest whole checkpoint, or None if none was ever finished.

        Args:
            abstract: the state as a pytree of ShapeDtypeStruct; where one has a sharding, each process
                reads its part only. Those without one come back as numpy arrays.

        Raises:
            InputError: all are damaged, or it is the checkpoint of another network or optimizer.
        """
        self.wait()
        flat = rules.by_path(abstract)
        wanted = rules.describe(flat)
        candidates = self._candidates() if jax.process_index() == 0 else itertools.repeat(NONE)
        while (step := _same(next(candidates, NONE))) != NONE:
            where = rules.place(self.folder, step)
            manifest = rules.Manifest.decode(
                storage.read_bytes(storage.join(where, rules.MANIFEST))
            )
            rules.check_same(where, manifest.arrays, wanted)
            if self._is_intact(step, manifest) and (arrays := self._read(step, flat)) is not None:
                self._own.add(step)
                state = jax.tree.unflatten(jax.tree.structure(abstract), arrays)
                return Restored(step, state, *self._texts(where))
        if _any(bool(self._damaged)):
            newest = max(self._damaged, default=None)
            why = f" (step {newest} {self._damaged[newest]})" if newest is not None else ""
            raise InputError(
                f"None of the {len(self._damaged)} checkpoints in {self.folder} can be restored{why}. "
                "Bring back a copy, or remove the folder to start anew."
            )
        return None

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are whole by the names and sizes of their files, ascending."""
        return sorted(
            step
            for step, sizes in rules.found(self.folder).items()
            if rules.is_whole(rules.place(self.folder, step), sizes)
        )

    def back_to(self, step: int) -> list[int]:
        """Remove what was saved after `step`, for good; if there is nothing before, all but the oldest.

        Returns:
            The steps that are left.
        """
        self.wait()
        steps = self.steps()
        kept = [each for each in steps if each <= step] or steps[:1]
        if jax.process_index() == 0:
            for later in set(steps) - set(kept):
                rules.remove(rules.place(self.folder, later))
        return kept

    def close(self) -> None:
        """Wait, as `wait` does, and save no more."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            self._orbax.close()

    def _state(self, step: int) -> str:
        return storage.join(rules.place(self.folder, step), rules.STATE)

    def _make_way(self, step: int) -> None:
        """Remove what a stopped run left of this step (rule 9)."""
        if not self._own:
            for other in self.steps():
                if other >= step and other not in self._damaged:
                    raise InputError(
                        f"{self.folder} has a checkpoint of step {other} of a run that is not this "
                        f"one, now at step {step}; give another folder, or go on from that one."
                    )
        rules.remove(rules.place(self.folder, step))

    def _finish(
        self, step: int, texts: Mapping[str, bytes], arrays: Mapping[str, str], size: int
    ) -> None:
        """In the background: wait for the arrays, declare the checkpoint whole, remove old ones."""
        with self._undone(step, size):
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                where = rules.place(self.folder, step)
                for name, text in texts.items():
                    storage.write_bytes(storage.join(where, name), text)
                rules.write_manifest(where, step, arrays)
        self._own.add(step)
        self._damaged.pop(step, None)
        if jax.process_index() == 0:
            self._tidy(step)

    @contextlib.contextmanager
    def _undone(self, step: int, size: int) -> Iterator[None]:
        """If the block fails, nothing of this step stays, and the error says what could not be saved."""
        try:
            yield
        except Exception as why:
            if jax.process_index() == 0:
                _remove(rules.place(self.folder, step))
            raise self._explained(step, size, why) from why

    def _explained(self, step: int, size: int, why: Exception) -> Exception:
        where = rules.place(self.folder, step)
        line = " ".join(str(why).partition("\n")[0].split())
        if full := next((text for text in NO_ROOM if text in line), None):
            free = storage.free_bytes(self.folder)
            room = "" if free is None else f", {free / 1e9:.3g} GB are free"
            return InputError(
                f"{where} could not be saved: {full} (it takes up to {size / 1e9:.3g} GB{room}). "
                "Those before it are whole; make room and start again."
            )
        if isinstance(why, ConnectionError):
            return ConnectionError(f"{where} could not be saved: {line}")
        return InputError(f"{where} could not be saved: {type(why).__name__}: {line}")

    def _tidy(self, step: int) -> None:
        """Remove what is older than the newest `keep`, now that this step is whole (rule 8)."""
        try:
            found = {s: sizes for s, sizes in rules.found(self.folder).items() if s <= step}
            whole = [
                s
                for s, sizes in found.items()
                if s not in self._damaged and rules.is_whole(rules.place(self.folder, s), sizes)
            ]
            for old in found.keys() - set(whole[: self._keep]):
                rules.remove(rules.place(self.folder, old))
        except (InputError, OSError) as why:
            log.warning("Old checkpoints in %s could not be removed: %s", self.folder, why)

    def _candidates(self) -> Iterator[int]:
        """Steps whose manifest is whole and agrees with names and sizes, the newest first."""
        for step, sizes in rules.found(self.folder).items():
            try:
                rules.open_manifest(rules.place(self.folder, step), sizes)
            except rules.UnfinishedError as why:
                _warn(rules.place(self.folder, step), why)
            except rules.DamagedError as why:
                self._refuse(step, why)
            else:
                yield step

    def _is_intact(self, step: int, manifest: rules.Manifest) -> bool:
        """Whether no process finds a damaged file; each reads its share of them."""
        where, found = rules.place(self.folder, step), False
        try:
            rules.verify(where, manifest, jax.process_index(), jax.process_count())
        except rules.DamagedError as why:
            found = True
            self._refuse(step, why)
        if _any(found):
            self._damaged.setdefault(step, "is damaged, as another process found")
            return False
        return True

    def _read(self, step: int, flat: Mapping[str, Any]) -> list[Any] | None:
        """The arrays in the order of `flat`; None, after a warning, if Orbax cannot read them."""
        filled = rules.filled(flat)
        targets = {path: _target(leaf) for path, leaf in filled.items()}
        try:
            arrays = self._orbax.restore(
                self._state(step), args=ocp.args.PyTreeRestore(filled, restore_args=targets)
            )
        except ValueError as why:
            if jax.process_count() > 1:
                raise
            line = str(why).partition("\n")[0]
            self._refuse(step, rules.DamagedError(f"cannot be read ({line})"))
            return None
        return [_like(leaf, arrays.get(path)) for path, leaf in flat.items()]

    def _texts(self, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
        data, config = (
            json.loads(storage.read_bytes(storage.join(where, name)))
            for name in (rules.DATA, rules.CONFIG)
        )
        return data, config

    def _refuse(self, step: int, why: rules.DamagedError) -> None:
        self._damaged[step] = str(why)
        _warn(rules.place(self.folder, step), why)

    def _raise_together(self, failure: BaseException | None) -> None:
        """Raise a failure on every process: none can go on alone."""
        if _any(failure is not None):
            raise failure or InputError(
                f"Another process could not save to {self.folder}; its own message says why."
            )


def _target(leaf: Any) -> ocp.RestoreArgs:
    """Straight to where the leaf lies: no process reads or holds more than its part."""
    if getattr(leaf, "sharding", None) is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _like(leaf: Any, value: Any) -> Any:
    """What was read for a leaf; an array without elements is not stored."""
    if not hasattr(leaf, "dtype"):
        return type(leaf)(np.asarray(value).item())  # a Python number
    if value is not None:
        return value if isinstance(value, jax.Array) else np.asarray(value, leaf.dtype)
    empty = np.zeros(leaf.shape, leaf.dtype)
    if getattr(leaf, "sharding", None) is None:
        return empty
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: empty[index])


def _any(here: bool) -> bool:
    """Whether it is so on any process; all ask at the same time."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def _same(step: int) -> int:
    """The step that process 0 has; all ask at the same time."""
    if jax.process_count() == 1:
        return step
    return int(multihost_utils.broadcast_one_to_all(np.array(step)))


def _remove(where: str) -> None:
    """Remove what a save that failed has left, until no other writer of it adds anything."""
    quiet = 0
    for _ in range(50):
        try:
            quiet = 0 if storage.files(where) else quiet + 1
            rules.remove(where)
        except ConnectionError as why:
            log.warning("%s, which is not whole, could not be removed: %s", where, why)
            return
        except OSError:  # a file came or went meanwhile
            quiet = 0
        if quiet == 3:
            return
        time.sleep(0.05)
    log.warning("%s, which is not whole, could not be removed: it is written to.", where)


def _warn(where: str, why: rules.DamagedError) -> None:
    log.warning("Skipped the checkpoint %s: it %s.", where, why)


def _is_news(record: logging.LogRecord) -> bool:
    """Orbax logs a failure once a thread, with its stack, and raises it: the last is enough."""
    return record.exc_info is None or not str(record.msg).startswith("[process=")
