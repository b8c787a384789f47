"""Released checkpoints -> a model directory, and back: the same as `omnihuman convert`.

python convert_weights.py Wan-AI/Wan2.1-T2V-1.3B models/1.3b --audio-encoder facebook/wav2vec2-base-960h
python convert_weights.py models/1.3b exported --export diffusers
"""

import sys

from omnihuman_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
