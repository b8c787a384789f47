"""Writes wav2vec2.npz: two tiny random Wav2Vec2Models of transformers and all their hidden states.

"group/" has the norms of wav2vec2-base and large-960h, "layer/" those of wav2vec2-large-lv60 and XLSR.
Needs torch and transformers; not run in CI. From the repository root:
`python tests/goldens/make_wav2vec2.py`.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model


def main() -> None:
    torch.manual_seed(0)
    sound = 0.2 + 0.1 * torch.randn(2, 4000)
    extract = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    waveform = extract(list(sound.numpy()), sampling_rate=16000, return_tensors="pt").input_values
    saved = {"sound": sound.numpy(), "waveform": waveform.numpy()}
    for variant in ("group", "layer"):
        config = Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=24,
            conv_dim=(8,) * 7,
            num_conv_pos_embeddings=12,
            num_conv_pos_embedding_groups=4,
            feat_extract_norm=variant,
            conv_bias=variant == "layer",
            do_stable_layer_norm=variant == "layer",
        )
        model = Wav2Vec2Model(config).eval()
        randomise(model)
        with torch.no_grad():
            out = model(waveform, output_hidden_states=True)
        saved[f"{variant}/hidden_states"] = torch.stack(out.hidden_states, 2).numpy()
        saved[f"{variant}/last_hidden_state"] = out.last_hidden_state.numpy()
        for name, value in model.state_dict().items():
            saved[f"{variant}/weights/{name}"] = value.numpy()
    np.savez_compressed(
        Path(__file__).with_name("wav2vec2.npz"),
        versions=np.array(f"torch {torch.__version__}, transformers {transformers.__version__}"),
        **saved,
    )


def randomise(model: torch.nn.Module) -> None:
    """Every weight, norms and biases too, so that no wrong mapping can hide."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            inputs = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape) / inputs**0.5)
            if ("norm" in name and name.endswith("weight")) or name.endswith("original0"):
                parameter.abs_().add_(0.5)


if __name__ == "__main__":
    main()
