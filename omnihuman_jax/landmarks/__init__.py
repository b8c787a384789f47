"""Face, body and hand keypoints of real people, from models that a package carries."""
