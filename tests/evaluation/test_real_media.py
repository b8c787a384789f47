"""`evaluate` on a real person with the real models that packages ship: who it is, and what the hands do."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from omnihuman_jax.evaluation.run import Settings, evaluate
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.models.faces import SAME_PERSON
from tests import real_media

METRICS = ("csim", "identity_over_time", "hand_presence", "hand_variance", "diversity")


@pytest.mark.slow
def test_a_real_person_is_himself_and_nobody_else_and_his_hand_is_seen(tmp_path):
    real_media.npm()
    with av.open(str(real_media.clip())) as clip:
        shown = {
            k: frame.to_ndarray(format="rgb24")
            for k, frame in enumerate(clip.decode(video=0))
            if k % 4 == 0 and (600 <= k < 640 or k >= 1152)
        }
    frames = list(shown.values())
    # Long before the hand is lifted, and while it is up.
    for name, part in (("still", frames[:10]), ("lifted", frames[10:25])):
        with VideoWriter(tmp_path / f"{name}.mp4", height=300, width=400, fps=6.25) as out:
            out.append(np.stack(part))
    Image.fromarray(frames[0]).save(tmp_path / "himself.png")
    Image.fromarray(real_media.portraits()["biden.jpg"]).save(tmp_path / "other.png")
    lines = [
        {"id": "himself", "video": "still.mp4", "reference": "himself.png"},
        {"id": "other", "video": "still.mp4", "reference": "other.png"},
        {"id": "lifted", "video": "lifted.mp4", "reference": "himself.png"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    made = evaluate(Settings(videos=str(manifest), metrics=METRICS), lambda line: None)
    csim = made.values("csim")
    assert csim["other"] < SAME_PERSON < min(csim["himself"], csim["lifted"])
    assert min(made.values("identity_over_time").values()) > SAME_PERSON
    hands = made.values("hand_presence")
    assert hands["himself"] < 0.2 < hands["lifted"]
