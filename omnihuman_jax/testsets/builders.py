"""The only place that knows an example's features in TensorFlow Datasets, with a builder for each set.

It takes a second to import, so it is imported inside functions only. TensorFlow is not needed: the
files are array_record, and of the features only numbers and bytes are used. (`Video` and `Audio` would
call ffmpeg and `Image` OpenCV; pictures and videos are bytes of a PNG and an mp4 instead.)
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from omnihuman_jax.errors import InputError
from omnihuman_jax.testsets import celebv_hq, half_body, puppets, ravdess

VERSION = "1.0.0"
SPLIT = "test"
FEATURES: dict[str, Any] = {
    "id": tfds.features.Text(),
    "reference": tfds.features.Text(doc="PNG: the first frame"),
    "sound": tfds.features.Tensor(shape=(None,), dtype=np.float32, doc="16 kHz; none: no samples"),
    "pose": tfds.features.Tensor(shape=(None, 133, 3), dtype=np.float32, doc="none: no frames"),
    "video": tfds.features.Text(doc="mp4, H.264 and AAC: the ground truth"),
    "fps": tfds.features.Scalar(dtype=np.float64),
    "frames": tfds.features.Scalar(dtype=np.int64),
    "height": tfds.features.Scalar(dtype=np.int64),
    "width": tfds.features.Scalar(dtype=np.int64),
    "identity": tfds.features.Text(),
    "text": tfds.features.Text(),
    "attributes": tfds.features.Text(doc="JSON"),
}


class _TestSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A set whose examples are handed in, kept in their order."""

    VERSION = tfds.core.Version(VERSION)
    LICENCE = HOMEPAGE = ""
    # Of what would be downloaded: nothing. Otherwise tfds 4.9.10 looks for a list of checksums beside
    # this file, by importlib_resources, which it does not ask to have installed.
    url_infos = None

    def __init__(
        self, examples: Callable[[], Iterable[dict[str, Any]]] | None = None, **kwargs: Any
    ) -> None:
        self._examples = examples
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(FEATURES),
            homepage=self.HOMEPAGE,
            license=self.LICENCE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterable[tuple[int, dict[str, Any]]]:
        if self._examples is None:
            raise InputError("Nothing is downloaded: build the set with `omnihuman testset`.")
        yield from enumerate(self._examples())


class CelebvHq(_TestSet):
    """CelebV-HQ: heads of celebrities in videos of YouTube. Non-commercial research only."""

    name = "celebv_hq"
    LICENCE, HOMEPAGE = celebv_hq.LICENCE, celebv_hq.HOMEPAGE


class Ravdess(_TestSet):
    """RAVDESS: 24 actors speak and sing two sentences in eight moods. CC BY-NC-SA 4.0."""

    name = "ravdess"
    LICENCE, HOMEPAGE = ravdess.LICENCE, ravdess.HOMEPAGE


class HalfBody(_TestSet):
    """Half-body videos of a manifest, in the manner of CyberHost's unpublished set."""

    name = "half_body"
    LICENCE, HOMEPAGE = half_body.LICENCE, half_body.HOMEPAGE


class Puppets(_TestSet):
    """Talking figures of the procedural world, with their truth."""

    name = "puppets"
    LICENCE, HOMEPAGE = puppets.LICENCE, puppets.HOMEPAGE


BUILDERS = {builder.name: builder for builder in (CelebvHq, Ravdess, HalfBody, Puppets)}
