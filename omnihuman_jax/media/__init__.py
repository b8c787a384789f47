"""Pictures, sound, poses and video as files: everything a user hands in, everything handed back."""

from omnihuman_jax.media.contact_sheet import ContactSheet
from omnihuman_jax.media.examples import example
from omnihuman_jax.media.pictures import fit_image, read_image
from omnihuman_jax.media.poses import read_pose
from omnihuman_jax.media.sound import read_audio
from omnihuman_jax.media.video import VideoFacts, VideoWriter, probe_video

__all__ = [
    "ContactSheet",
    "VideoFacts",
    "VideoWriter",
    "example",
    "fit_image",
    "probe_video",
    "read_audio",
    "read_image",
    "read_pose",
]
