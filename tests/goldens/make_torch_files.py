"""Writes torch_files.pth, torch_files_legacy.pth and torch_files.npz.

What `torch.save` makes of every kind of view (now, and as before torch 1.6), and the values.

python tests/goldens/make_torch_files.py   (needs torch)
"""

from pathlib import Path

import numpy as np
import torch

here = Path(__file__).parent
generator = torch.Generator().manual_seed(0)
base = torch.randn(4, 6, generator=generator)
tensors = {
    "plain": base,
    "transposed": base.T,  # shares the storage of `plain`
    "rows": base[1:3],
    "every_other": base[:, ::2],
    "expanded": torch.randn(3, 1, generator=generator).expand(3, 5),
    "parameter": torch.nn.Parameter(torch.randn(2, 3, generator=generator)),
    "channels_last": torch.randn(2, 3, 4, 5, generator=generator).to(
        memory_format=torch.channels_last
    ),
    "bfloat16": torch.randn(5, generator=generator).to(torch.bfloat16),
    "float16": torch.randn(5, generator=generator).to(torch.float16),
    "float64": torch.randn(5, generator=generator).to(torch.float64),
    "int64": torch.tensor([1, -2, 2**40]),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
}
torch.save(tensors, here / "torch_files.pth")
torch.save(tensors, here / "torch_files_legacy.pth", _use_new_zipfile_serialization=False)
values = {
    name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    for name, tensor in tensors.items()
}
np.savez(here / "torch_files.npz", versions=f"torch {torch.__version__}", **values)
