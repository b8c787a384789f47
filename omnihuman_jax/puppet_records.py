"""The only place that makes training records straight from puppets, their truth in place of detectors.

    python -m omnihuman_jax.puppet_records PUPPETS OUT --model DIR --cut FRAMESxPIECES

`preprocess` finds out what a clip may teach; here the clip's own json says it, so that thousands of small
clips become records in minutes and training can be judged apart from the filters.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from omnihuman_jax import encoding, media, storage
from omnihuman_jax.data import raw
from omnihuman_jax.data.candidates import Candidate
from omnihuman_jax.data.info import info_from_shards, write_info
from omnihuman_jax.data.records import ShardWriter
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models import wav2vec2
from omnihuman_jax.models.building import FLOAT32
from omnihuman_jax.models.mini import find
from omnihuman_jax.puppets.files import write_clips
from omnihuman_jax.puppets.world import Settings

NAME = "puppets"
INFO = "dataset.json"
LEAD = 0.5  # seconds of sound before and after a clip that its features may lean on


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How many pieces of which length a clip is cut into; they may overlap."""

    frames: int
    pieces: int

    def __post_init__(self) -> None:
        Grid(self.frames, 16, 16)
        if self.pieces < 1:
            raise InputError(f"A clip is cut into at least 1 piece, got {self.pieces}.")


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A small world of puppets that an experiment draws and encodes for itself, below its workdir.

    Attributes:
        clips: how many, from number 0 of the world with seed 0.
        size: height and width in pixels.
        seconds: length of each.
        cuts: pieces they are cut into.
    """

    clips: int = 8
    size: int = 64
    seconds: float = 1.0
    cuts: tuple[Cut, ...] = (Cut(frames=17, pieces=2),)

    def records(self, workdir: str) -> str:
        """Where the records are."""
        return storage.join(workdir, "records")

    def __call__(self, workdir: str, model: str) -> None:
        """Make the records if they are not there yet."""
        drawn, out = storage.join(workdir, "puppets"), self.records(workdir)
        if not storage.is_file(storage.join(out, INFO)):
            settings = Settings(height=self.size, width=self.size, seconds=self.seconds)
            write_clips(drawn, settings, self.clips, progress=sys.stderr.isatty())
            write(drawn, out, model, self.cuts, clips_per_shard=self.clips)


def write(
    puppets: str,
    out: str,
    model: str,
    cuts: Sequence[Cut],
    *,
    clips_per_shard: int = 64,
    batch: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Records in folder `out` of the puppets in folder `puppets`, encoded by `model`.

    A shard that is there is not made again.

    Returns:
        `clips` read and `rejected` (their truth says that they teach nothing), `records` written.

    Raises:
        InputError: no puppets, or clips shorter than a cut.
    """
    names = sorted(n[:-5] for n in storage.files(puppets, deep=False) if n.endswith(".json"))
    if not names:
        raise InputError(f"There are no puppets in {puppets}; make some with `omnihuman puppets`.")
    encoder = encoding.Encoder(find(model), FLOAT32, batch)
    shards = -(-len(names) // clips_per_shard)
    rejected = 0
    for shard in range(shards):
        some = names[shard * clips_per_shard : (shard + 1) * clips_per_shard]
        progress(shard * clips_per_shard, len(names))
        if _there(out, shard, shards):
            continue
        candidates = [c for name in some for c in _candidates(puppets, name, cuts)]
        rejected += len(some) - len({c.source for c in candidates})
        with ShardWriter(out, NAME, shard, shards) as writer:
            for example in encoder(candidates):
                writer.write(example)
    progress(len(names), len(names))
    info = info_from_shards(
        out,
        NAME,
        shards,
        fingerprints=encoding.fingerprints(find(model)),
        fps=25.0,
        channels=find(model).config("vae").channels,
        settings={"cuts": [asdict(cut) for cut in cuts], "truth": "puppets"},
    )
    write_info(out, info)
    return {"clips": len(names), "rejected": rejected, "records": info.records}


def _there(out: str, shard: int, shards: int) -> bool:
    return storage.is_file(storage.join(out, f"{NAME}-{shard:05d}-of-{shards:05d}.tfrecord.index"))


def _candidates(folder: str, name: str, cuts: Sequence[Cut]) -> Iterator[Candidate]:
    """The pieces of one clip; none if its truth says that it teaches nothing."""
    side = json.loads(storage.read_bytes(storage.join(folder, f"{name}.json")))
    teaches = frozenset(side["truth"]["teaches"])
    if not teaches:
        return
    path = storage.join(folder, f"{name}.mp4")
    with raw.local(path) as file:
        facts = raw.probe(file)
        frames = np.stack(list(raw.frames(file, facts, facts.fps)))
        sound = media.read_audio(file, wav2vec2.SAMPLE_RATE) if facts.sound else None
    keypoints = np.asarray(side["pose"]["keypoints"], np.float32)
    for cut in cuts:
        yield from _pieces(name, side, teaches, facts.fps, frames, sound, keypoints, cut)


def _pieces(
    name: str,
    side: dict[str, Any],
    teaches: frozenset[str],
    fps: float,
    frames: np.ndarray,
    sound: np.ndarray | None,
    keypoints: np.ndarray,
    cut: Cut,
) -> Iterator[Candidate]:
    count, height, width, _ = frames.shape
    if count < cut.frames:
        raise InputError(f"{name} has {count} frames, and a cut is {cut.frames} long.")
    room = count - cut.frames
    starts = [round(room * i / max(cut.pieces - 1, 1)) for i in range(cut.pieces)]
    for number, start in enumerate(starts):
        stop = start + cut.frames
        heard, lead = _around(sound, start / fps, stop / fps)
        # The frame farthest from the piece shows the same person in another moment.
        still = 0 if start > count - stop else count - 1
        yield Candidate(
            id=f"{name}#{cut.frames}.{number}",
            source=f"{name}.mp4",
            grid=Grid(cut.frames, height, width),
            fps=fps,
            frames=frames[start:stop],
            reference=frames[still],
            sound=heard if "audio" in teaches else None,
            lead=lead,
            text=side["caption"],
            pose=keypoints[start:stop] if "pose" in teaches else None,
            teaches=teaches,
        )


def _around(sound: np.ndarray | None, start: float, stop: float) -> tuple[Any, int]:
    """The sound from `LEAD` before to `LEAD` after a piece, always as long, and samples before it."""
    if sound is None:
        return None, 0
    rate, lead = wav2vec2.SAMPLE_RATE, round(LEAD * wav2vec2.SAMPLE_RATE)
    first, last = round(start * rate) - lead, round(stop * rate) + lead
    inside = sound[max(first, 0) : max(last, 0)]
    before, after = max(0, -first), max(0, last - len(sound))
    return np.pad(inside, (before, after)).astype(np.float32), lead


def _cut(text: str) -> Cut:
    try:
        frames, pieces = (int(part) for part in text.split("x"))
        return Cut(frames=frames, pieces=pieces)
    except (ValueError, InputError) as why:
        raise argparse.ArgumentTypeError(
            f"expected FRAMESxPIECES, frames 4n+1 (25x2), got {text!r}: {why}"
        ) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Records of a folder of puppets, from a shell."""
    parser = argparse.ArgumentParser(prog="puppet_records", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("puppets", metavar="PUPPETS", help="folder that `omnihuman puppets` made")
    add("out", metavar="OUT", help="folder of the records; shards that are there are kept")
    add("--model", default="mini", metavar="NAME_OR_DIR", help="whose encoders (default: mini)")
    add("--cut", type=_cut, nargs="+", required=True, metavar="FRAMESxPIECES",
        help="how many pieces of which length each clip is cut into")  # fmt: skip
    add("--batch", type=int, default=8, metavar="N", help="pieces encoded at once (default: 8)")
    args = parser.parse_args(arguments)
    done = write(args.puppets, args.out, args.model, args.cut, batch=args.batch, progress=_tell)
    print(json.dumps(done))


def _tell(done: int, total: int) -> None:
    print(f"{done} of {total} clips", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        print(f"error: {why}", file=sys.stderr)
        sys.exit(2)
