"""Whatever happens to the bytes of a file, it is read or refused: no other error, and no hang."""

from datetime import timedelta

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from omnihuman_jax.errors import InputError
from omnihuman_jax.media import VideoWriter, probe_video, read_audio, read_image, read_pose
from tests.media.test_sound import encode, tone, write_wav

READERS = {
    **dict.fromkeys(("png", "jpg", "gif", "webp", "tiff"), read_image),
    **dict.fromkeys(("wav", "flac", "mp3", "m4a", "ogg"), read_audio),
    **dict.fromkeys(("json", "npz"), read_pose),
    "mp4": probe_video,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small sound file of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    for suffix in ("png", "jpg", "gif", "webp", "tiff"):
        Image.fromarray(pixels).save(folder / f"a.{suffix}", compression="tiff_lzw")
    write_wav(folder / "a.wav", tone(16_000, 0.1), 16_000, "i2")
    codecs = {"flac": "flac", "mp3": "libmp3lame", "m4a": "aac", "ogg": "libopus"}
    for suffix, codec in codecs.items():
        encode(folder / f"a.{suffix}", codec, tone(48_000, 0.2), 48_000)
    (folder / "a.json").write_text('{"fps": 25, "keypoints": [[[0.5, 0.5, 1], [0.1, 0.2, 0]]]}')
    np.savez(folder / "a.npz", fps=25, keypoints=np.full((2, 2, 3), 0.5))
    with VideoWriter(folder / "a.mp4", height=16, width=16, fps=25, sound=tone(16_000, 0.2)) as out:
        out.append(np.zeros((5, 16, 16, 3), np.uint8))
    return {path.suffix[1:]: path.read_bytes() for path in folder.iterdir()}


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["change", "remove", "insert", "cut"]),
        # Half of the damage falls on the header, where it does most.
        st.one_of(st.floats(0, 0.999), st.integers(0, 63)),
        st.binary(min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content, damage):
    for kind, place, piece in damage:
        at = min(int(place * len(content)) if isinstance(place, float) else place, len(content))
        rest = {
            "change": piece + content[at + len(piece) :],
            "remove": content[at + len(piece) :],
            "insert": piece + content[at:],
            "cut": b"",
        }[kind]
        content = content[:at] + rest
    return content


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it tells what it skips in a damaged TIFF
@pytest.mark.parametrize("suffix", READERS)
@settings(
    max_examples=25,
    deadline=timedelta(seconds=10),
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(damage=DAMAGE)
def test_it_is_read_or_refused_in_one_line(whole, tmp_path_factory, suffix, damage):
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(damaged(whole[suffix], damage))
    try:
        read = READERS[suffix](path)
    except InputError as why:
        assert "\n" not in str(why)
    else:
        if isinstance(read, np.ndarray):
            assert np.isfinite(read).all()


def test_the_files_are_whole_before_they_are_damaged(whole, tmp_path):
    for suffix, content in whole.items():
        (tmp_path / f"a.{suffix}").write_bytes(content)
        READERS[suffix](tmp_path / f"a.{suffix}")


def test_libav_keeps_its_warnings_to_itself(whole, tmp_path, capfd):
    (tmp_path / "a.mp3").write_bytes(damaged(whole["mp3"], [("remove", 0.5, b"abcdef")] * 3))
    (tmp_path / "a.m4a").write_bytes(whole["m4a"][:-40])
    for path in tmp_path.iterdir():
        try:
            read_audio(path)
        except InputError:
            continue
    assert av.logging.get_level() is None
    assert capfd.readouterr().err == ""
