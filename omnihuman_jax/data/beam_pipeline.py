"""Raw videos → shards of records, as one Apache Beam pipeline: the only file that knows Beam.

sources of a shard ─► Prepare: cut, filter ─► RunInference: encode ─► group by shard ─► Write
                          └── rejections ──────────────────────────────────┘
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from omnihuman_jax import storage
from omnihuman_jax.data import records
from omnihuman_jax.data.candidates import Candidate, Rejection
from omnihuman_jax.data.preprocess import thumbnail
from omnihuman_jax.data.records import Example

FAILING = 0.05  # of a shard's videos may be damaged; one always may
REPORTS = "report"

type Prepare = Callable[[str], Iterable[Candidate | Rejection]]
type Encode = Callable[[Sequence[Candidate]], list[Example]]


@dataclass(frozen=True)
class Shard:
    """Some raw videos, whose clips make one file."""

    number: int
    of: int
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is done to a video and to its clips; factories, because every worker makes its own.

    Attributes:
        prepare: makes the function from a raw video's name to candidates and rejections.
        encode: makes the function from candidates to examples.
        batch: candidates handed to `encode` at a time.
    """

    prepare: Callable[[], Prepare]
    encode: Callable[[], Encode]
    batch: int


def run(out: str, name: str, shards: Sequence[Shard], steps: Steps, flags: Sequence[str]) -> None:
    """Make the files of `shards` in the folder `out`, and beside each the rows of its report.

    A shard with too many damaged videos leaves only its rows; `failed` finds those.

    Args:
        flags: Beam's own, "--runner=…"; DirectRunner in this process by default.
    """
    options = PipelineOptions([*flags], pickle_library="cloudpickle")
    with beam.Pipeline(options=options) as pipeline:
        work = [(shard.number, source) for shard in shards for source in shard.sources]
        by_number = {shard.number: shard for shard in shards}
        prepared = (
            pipeline
            | "Sources" >> beam.Create(work)
            | "Spread" >> beam.Reshuffle()
            | "Prepare" >> beam.ParDo(_Prepare(steps.prepare)).with_outputs("rows", main="clips")
        )
        encoded = prepared.clips | "Encode" >> RunInference(KeyedModelHandler(_Networks(steps)))
        made = encoded | "Serialize" >> beam.MapTuple(_kept)
        ((prepared.rows, made) | beam.Flatten() | beam.GroupByKey()) | "Write" >> beam.MapTuple(
            lambda shard, rows: write(out, name, by_number[shard], rows)
        )


class _Prepare(beam.DoFn):
    """A video's candidates, and the report's rows of what was rejected."""

    def __init__(self, make: Callable[[], Prepare]) -> None:
        self.make = make

    def setup(self) -> None:
        self.prepare = self.make()

    def process(self, work: tuple[int, str]) -> Iterator[Any]:
        shard, source = work
        for clip in self.prepare(source):
            if isinstance(clip, Candidate):
                yield shard, clip
            else:
                yield beam.pvalue.TaggedOutput("rows", (shard, (clip.id, _rejected(clip), b"")))


class _Networks(ModelHandler[Candidate, tuple[Example, bytes], Encode]):
    """Beam's view of the networks: loaded once a worker, given batches."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.steps = steps

    def load_model(self) -> Encode:
        return self.steps.encode()

    def run_inference(
        self, batch: Sequence[Candidate], model: Encode, inference_args: Any = None
    ) -> Iterable[tuple[Example, bytes]]:
        return zip(model(batch), [thumbnail(c.frames) for c in batch], strict=True)

    def batch_elements_kwargs(self) -> dict[str, Any]:
        return {"min_batch_size": self.steps.batch, "max_batch_size": self.steps.batch}


type Row = tuple[str, dict[str, Any], bytes]  # id, the report's row, the record or nothing


def _kept(shard: int, made: tuple[Example, bytes]) -> tuple[int, Row]:
    example, picture = made
    row = {
        "id": example.id,
        "source": example.source,
        "kept": True,
        "reason": None,
        "detail": "",
        "teaches": sorted(example.teaches),
        "scores": dict(example.scores),
        "seconds": example.frames / example.fps,
        "bucket": f"{example.frames}x{example.height}x{example.width}",
        "thumbnail": base64.b64encode(picture).decode(),
    }
    return shard, (example.id, row, records.serialize(example))


def _rejected(rejection: Rejection) -> dict[str, Any]:
    return {
        "id": rejection.id,
        "source": rejection.source,
        "kept": False,
        "reason": rejection.reason,
        "detail": rejection.detail,
        "failed": rejection.failed,
        "teaches": [],
        "scores": dict(rejection.scores),
        "seconds": rejection.seconds,
        "bucket": None,
        "thumbnail": base64.b64encode(rejection.thumbnail).decode(),
    }


def write(out: str, name: str, shard: Shard, rows: Iterable[Row]) -> None:
    """The files of one shard, its rows in the order of their ids: the same bytes in every run."""
    ordered = sorted(rows, key=lambda row: row[0])
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for _, row, _ in ordered)
    failing = {row["source"] for _, row, _ in ordered if row.get("failed")}
    storage.write_bytes(report_file(out, name, shard), lines.encode())
    if len(failing) > max(1, FAILING * len(shard.sources)):
        return
    with records.ShardWriter(out, name, shard.number, shard.of) as writer:
        for _, _, record in ordered:
            if record:
                writer.write(records.parse(record))


def report_file(out: str, name: str, shard: Shard) -> str:
    """Where the rows of a shard are."""
    return storage.join(out, REPORTS, f"{name}-{shard.number:05d}-of-{shard.of:05d}.jsonl")
