"""Writes vae.npz: a tiny random AutoencoderKLWan of diffusers, and what it makes of a short clip.

Needs torch and diffusers; not run in CI. From the repository root: `python tests/goldens/make_vae.py`.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKLWan


def main() -> None:
    torch.manual_seed(0)
    # Every kind of layer; all numbers random, so that no two tensors can be swapped unseen.
    sizes = dict(base_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, z_dim=16)
    vae = AutoencoderKLWan(**sizes).eval()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if parameter.ndim > 1 and not name.endswith("gamma"):
                spread = parameter[0].numel() ** -0.5
            else:
                spread = 0.2
            if (
                "conv2" in name
            ):  # what a block adds is less than what it passes on, as in a trained one
                spread *= 0.3
            parameter.copy_(spread * torch.randn(parameter.shape))
            if name.endswith("gamma"):
                parameter.add_(1.0)
        vae.decoder.conv_out.weight.mul_(2.0)  # so that some pixels are clamped

        # Four latent frames: the first, the second whose past is zeros, and two of the steady state.
        video = torch.randint(0, 256, (1, 3, 13, 16, 32), dtype=torch.uint8)
        mu = vae.encode(video.float() / 127.5 - 1).latent_dist.mode()
        mean, std = (
            torch.tensor(numbers)[None, :, None, None, None]
            for numbers in (vae.config.latents_mean, vae.config.latents_std)
        )
        latents = (mu - mean) / std
        noise = torch.randn(latents.shape)
        frames = vae.decode(noise * std + mean).sample
    print(f"{(frames.abs() == 1).float().mean():.0%} of the decoded pixels are clamped")

    def channels_last(x: torch.Tensor) -> np.ndarray:
        return x.permute(0, 2, 3, 4, 1).contiguous().numpy()

    np.savez_compressed(
        Path(__file__).with_name("vae.npz"),
        video=channels_last(video),
        latents=channels_last(latents),
        noise=channels_last(noise),
        frames=channels_last(frames),
        versions=np.array(f"torch {torch.__version__}, diffusers {diffusers.__version__}"),
        **{f"weights/{name}": value.numpy() for name, value in vae.state_dict().items()},
    )


if __name__ == "__main__":
    main()
