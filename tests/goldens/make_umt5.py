"""Writes umt5.npz: a tiny random UMT5EncoderModel of transformers and its features of a padded batch.

Needs torch and transformers; not run in CI. From the repository root: `python tests/goldens/make_umt5.py`.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import UMT5Config, UMT5EncoderModel


def main() -> None:
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=100, d_model=32, d_kv=6, num_heads=4, d_ff=48, num_layers=3)
    model = UMT5EncoderModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.7 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(spread * torch.randn(parameter.shape))
            if "norm" in name:
                parameter.add_(1.0)
            if "relative_attention_bias" in name:
                parameter.mul_(4.0)

    # Longer than 128, so that the last bucket of distances is used on both sides.
    lengths = torch.tensor([150, 61])
    mask = (torch.arange(150)[None] < lengths[:, None]).long()
    tokens = torch.randint(2, 100, (2, 150)) * mask
    with torch.no_grad():
        features = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    weights = {
        f"weights/{name}": value.numpy()
        for name, value in model.state_dict().items()
        if name != "encoder.embed_tokens.weight"  # tied to shared.weight
    }
    np.savez_compressed(
        Path(__file__).with_name("umt5.npz"),
        tokens=tokens.numpy().astype(np.int32),
        lengths=lengths.numpy().astype(np.int32),
        features=features.numpy(),
        versions=np.array(f"torch {torch.__version__}, transformers {transformers.__version__}"),
        **weights,
    )


if __name__ == "__main__":
    main()
