"""Writes samplers.npz: schedules and ten-step trajectories of diffusers' schedulers on a toy velocity.

The "wan" spacings restate the two lines of Wan2.1's wan/utils/fm_solvers*.py that make the levels;
the solvers under them are the same as diffusers'. Needs torch and diffusers; not run in CI.
From the repository root: `python tests/goldens/make_samplers.py`.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

STEPS = (1, 2, 3, 10, 25, 50)
SHIFTS = (3, 5)
CLASSES = {"unipc": UniPCMultistepScheduler, "dpm++": DPMSolverMultistepScheduler}


def scheduler_of(sampler: str, source: str, steps: int, shift: float):
    """A diffusers scheduler, set to `steps` steps at the levels of `source`."""
    scheduler = CLASSES[sampler](
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    if source == "diffusers":
        scheduler.set_timesteps(steps)
    elif sampler == "unipc":
        # FlowUniPCMultistepScheduler: its largest and smallest of 1000 float32 levels.
        largest = torch.tensor(1.0 - 1 / 1000, dtype=torch.float32).item()
        scheduler.set_timesteps(sigmas=np.linspace(largest, 0.0, steps + 1)[:-1])
    else:
        # get_sampling_sigmas; this class takes no levels from outside.
        scheduler.set_timesteps(steps)
        levels = np.linspace(1, 0, steps + 1)[:steps]
        levels = shift * levels / (1 + (shift - 1) * levels)
        scheduler.timesteps = torch.from_numpy(levels * 1000).to(torch.int64)
        scheduler.sigmas = torch.from_numpy(np.append(levels, 0).astype(np.float32))
    return scheduler


def main() -> None:
    torch.manual_seed(0)
    noise, weight, drift = torch.randn(2, 6), 0.8 * torch.randn(6, 6), torch.randn(6)
    arrays = {"noise": noise.numpy(), "weight": weight.numpy(), "drift": drift.numpy()}
    for sampler in CLASSES:
        for source in ("wan", "diffusers"):
            for shift in SHIFTS:
                for steps in STEPS:
                    scheduler = scheduler_of(sampler, source, steps, shift)
                    name = f"{sampler}/{source}/{shift}/{steps}"
                    arrays[f"{name}/sigmas"] = scheduler.sigmas.numpy()
                    arrays[f"{name}/timesteps"] = scheduler.timesteps.numpy().astype(np.int32)
                scheduler = scheduler_of(sampler, source, 10, shift)
                x, states = noise, []
                for t in scheduler.timesteps:
                    v = torch.tanh(x @ weight + drift * (t / 1000))
                    x = scheduler.step(v, t, x, return_dict=False)[0]
                    states.append(x.numpy())
                arrays[f"{sampler}/{source}/{shift}/states"] = np.stack(states)
    np.savez_compressed(
        Path(__file__).with_name("samplers.npz"),
        versions=np.array(f"torch {torch.__version__}, diffusers {diffusers.__version__}"),
        **arrays,
    )


if __name__ == "__main__":
    main()
