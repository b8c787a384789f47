"""Writes dit.npz: a tiny random WanTransformer3DModel of diffusers, its output, and a 10-step UniPC path.

Needs torch and diffusers; not run in CI. From the repository root: `python tests/goldens/make_dit.py`.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel


def main() -> None:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=16,
        out_channels=16,
        text_dim=24,
        freq_dim=16,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.5 / max(1, parameter.shape[-1]) ** 0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(spread * torch.randn(parameter.shape))
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)

    x = torch.randn(2, 16, 3, 8, 12)
    t = torch.tensor([250.0, 999.0])
    text = torch.randn(2, 12, 24)
    text[0, 5:], text[1, 9:] = 0, 0
    saved = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    with torch.no_grad():
        out = model(x, t, text, return_dict=False)[0]
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
        scheduler.set_timesteps(10)
        latents, path = x.clone(), []
        for step in scheduler.timesteps:
            velocity = model(latents, step.expand(2), text, return_dict=False)[0]
            latents = scheduler.step(velocity, step, latents, return_dict=False)[0]
            path.append(latents)

    def last(y: torch.Tensor) -> np.ndarray:
        return np.moveaxis(y.numpy(), 1, -1)

    np.savez_compressed(
        Path(__file__).with_name("dit.npz"),
        x=last(x),
        t=t.numpy(),
        text=text.numpy(),
        out=last(out),
        path=np.stack([last(y) for y in path])[[0, 1, 4, 9]],
        path_steps=np.array([0, 1, 4, 9]),
        versions=np.array(f"torch {torch.__version__}, diffusers {diffusers.__version__}"),
        **saved,
    )


if __name__ == "__main__":
    main()
