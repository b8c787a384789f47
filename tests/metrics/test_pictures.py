"""PSNR and SSIM against scikit-image, and what they must do; the Fréchet distance against pytorch-fid."""

import cv2
import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.media.examples import example
from omnihuman_jax.metrics.frechet import frechet_distance
from omnihuman_jax.metrics.pictures import psnr, ssim, temporal_flickering
from tests.goldens.arbitrary import pixels
from tests.goldens.load import load


@pytest.fixture(scope="module")
def portrait():
    return cv2.imread(str(example("portrait.jpg")))[100:260, 140:300][None]


def test_they_are_those_of_scikit_image():
    golden = load("metrics")
    one, other = pixels((41, 50, 3))[None], pixels((41, 50, 3), 1)[None]
    assert psnr(one, other) == pytest.approx([float(golden["psnr"])], rel=1e-12)
    assert ssim(one, other) == pytest.approx([float(golden["ssim"])], rel=1e-9)


def test_the_frechet_distance_is_pytorch_fids():
    random = np.random.default_rng(0)
    one = random.standard_normal((60, 24)) @ random.standard_normal((24, 24))
    other = 0.7 * random.standard_normal((80, 24)) @ random.standard_normal((24, 24)) + 0.3
    assert frechet_distance(one, other) == pytest.approx(
        float(load("metrics")["frechet"]), rel=1e-6
    )


def test_psnr_by_hand(portrait):
    """Every number off by 5: 20 log10(255 / 5)."""
    grey = np.full_like(portrait, 100)
    assert psnr(grey, grey + 5) == pytest.approx(20 * np.log10(51))
    assert psnr(grey, grey) == np.inf
    assert ssim(portrait, portrait) == pytest.approx(1)


def test_flicker_by_hand():
    """Half of the numbers change by 51, a fifth of the range, in one of two steps."""
    frames = np.zeros((3, 4, 6, 3), np.uint8)
    frames[1:, :2] = 51
    assert temporal_flickering(frames) == pytest.approx(1 - 0.2 / 2 / 2)
    assert temporal_flickering(frames[1:]) == 1
    with pytest.raises(InputError, match="two or more"):
        temporal_flickering(frames[:1])


def test_more_noise_and_more_blur_are_worse(portrait):
    noise = np.random.default_rng(0).standard_normal(portrait.shape)
    noisy = [np.clip(portrait + s * noise, 0, 255).astype(np.uint8) for s in (2, 6, 20, 60)]
    blurred = [cv2.GaussianBlur(portrait[0], (0, 0), s)[None] for s in (0.7, 1.5, 3, 6)]
    for worse in (noisy, blurred):
        for metric in (psnr, ssim):
            found = [float(metric(portrait, each)[0]) for each in worse]
            assert found == sorted(found, reverse=True)
            assert len(set(found)) == 4
    steady = [temporal_flickering(np.concatenate([portrait, each])) for each in noisy]
    assert steady == sorted(steady, reverse=True)


def test_each_pair_has_its_own_value(portrait):
    one = np.concatenate([portrait, portrait])
    other = np.concatenate([portrait, portrait // 2])
    assert ssim(one, other)[0] == pytest.approx(1)
    assert ssim(one, other)[1] == pytest.approx(ssim(portrait, portrait // 2)[0])
    with pytest.raises(InputError, match="same size"):
        psnr(one, portrait)
    with pytest.raises(InputError, match="11 pixels"):
        ssim(one[:, :10], other[:, :10])
