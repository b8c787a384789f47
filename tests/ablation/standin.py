"""In place of `omnihuman` and of what makes videos: writes what they would, without JAX; notes that it ran.

python standin.py LOG omnihuman|python words of a command …
"""

import json
import pathlib
import sys

LOG, PROGRAM, *WORDS = sys.argv[1:]


def value(name):
    return pathlib.Path(WORDS[WORDS.index(name) + 1])


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def main():
    with pathlib.Path(LOG).open("a") as log:
        log.write(" ".join(WORDS) + "\n")
    if WORDS[0] == "train":
        if pathlib.Path(LOG + ".fails").is_file() and "seed=1" in WORDS:
            sys.exit("error: no memory")
        written(value("--workdir") / "model" / "model.json", WORDS)
    elif WORDS[0] == "evaluate":
        (file,) = pathlib.Path(value("--testset")).glob("ids.json")
        clips = json.loads(file.read_text())["ids"]
        shift = 1.0 if "audio-10" in WORDS else 2.0
        for number, clip in enumerate(clips):
            row = {"id": clip, "video": f"{clip}.mp4", "values": {"lips": number + shift}}
            written(value("--out") / "clips" / f"{clip}.json", row)
        lips = dict(value=1.5, low=1.0, high=2.0, count=2, better="higher", definition="lips")
        summary = dict(format=1, name="x", testset="t", metrics={"lips": lips}, clips=clips)
        written(value("--out") / "summary.json", summary)
    else:  # -m omnihuman_jax.ablation.making TESTSET OUT
        written(pathlib.Path(WORDS[3]) / "done.json", {})


main()
