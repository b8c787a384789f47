"""A gcloud that sends nothing: it notes its arguments, and plays Cloud TPU by a script.

In the folder FAKE_CLOUD: `calls.jsonl` (the arguments of each call), `script.json`, `state.json`, and gs/,
which is gs://. The script:

    lives       for each machine that is created, what `describe` answers, one a call, the last stays
    refuse      what the first calls of `create` say instead, one a call
    ssh_fails   how many calls of ssh fail before they work
    runs        for each start of training, what workers answer when asked, one a call, the last stays:
                "running STEP", "ended CODE STEP", "leaving STEP" (all but the first have ended well);
                STEP goes into health.json
    differ      the workers answer with different versions
    unchecked   the check finds too few devices
"""

import fcntl
import json
import os
import re
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])


def main() -> int:
    words = sys.argv[1:]
    with (CLOUD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    script = json.loads((CLOUD / "script.json").read_text())
    lock = (CLOUD / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # slices are asked side by side
    path = CLOUD / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    answer, code = play(words, script, state)
    new = path.with_suffix(f".{os.getpid()}")  # whoever is interrupted here leaves the old one
    new.write_text(json.dumps(state))
    new.replace(path)
    print(answer, file=sys.stderr if code else sys.stdout)
    return code


def play(words, script, state):
    """What a call prints, and its exit code."""
    if words[0] == "storage":
        return storage(words)
    verb = words[3]
    if verb == "create":
        return create(script, state)
    if not state.get("there"):
        return "ERROR: NOT_FOUND: no such resource", 1
    if verb == "describe":
        return described(script, state), 0
    if verb == "delete":
        state["there"] = False
        return "deleted", 0
    return ssh(words, script, state)


def storage(words):
    *_, source, target = words
    if words[1] == "cp":
        where = CLOUD / "gs" / target.removeprefix("gs://")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(Path(source).read_bytes()[:1000])  # nobody unpacks it
        return "", 0
    where = CLOUD / "gs" / target.removeprefix("gs://")
    return (where.read_text(), 0) if where.exists() else ("matched no objects or files", 1)


def create(script, state):
    refused = state.get("refused", 0)
    state["refused"] = refused + 1
    if refused < len(script.get("refuse", [])):
        return "ERROR: " + script["refuse"][refused], 1
    if state.get("there"):
        return "ERROR: ALREADY_EXISTS", 1
    state.update(there=True, asked=0, life=state.get("life", -1) + 1, training=False)
    return "", 0


def described(script, state):
    lives = script.get("lives", [["ACTIVE"]])
    states = lives[min(state["life"], len(lives) - 1)]
    answer = states[min(state["asked"], len(states) - 1)]
    state["asked"] += 1
    return answer


def ssh(words, script, state):
    failed = state.get("ssh", 0)
    state["ssh"] = failed + 1
    if failed < script.get("ssh_fails", 0):
        return "ssh: connect to host 10.0.0.2 port 22: Connection refused", 255
    command = next(word for word in words if word.startswith("--command=")).removeprefix(
        "--command="
    )
    verb = re.search(r"worker\.sh (\w+)", command)[1]
    if verb == "start":
        state.update(training=True, run=state.get("run", -1) + 1, looked=0)
    if verb == "stop":
        state["training"] = False
    return "\n".join(answers(verb, command, script, state)), 0


def answers(verb, command, script, state):
    workers = [f"w-{number}" for number in range(script.get("workers", 4))]
    if verb == "setup":
        odd = script.get("differ", False)
        return [f"omnihuman: version host={w} jax=0.12.{int(odd and w == 'w-1')}" for w in workers]
    if verb == "check":
        devices = command.split()[-3]
        seen = (
            "failed: this worker sees 12 devices"
            if script.get("unchecked")
            else f"ok devices={devices}"
        )
        return [f"omnihuman: check host={w} {seen}" for w in workers]
    if verb == "state":
        if not state["training"]:
            return [f"omnihuman: state host={w} state=idle" for w in workers]
        kind, *rest = looked(command, script, state)
        if kind == "leaving":
            states = ["running"] + ["ended code=0"] * (len(workers) - 1)
            return [
                f"omnihuman: state host={w} state={s}" for w, s in zip(workers, states, strict=True)
            ]
        code = f" code={rest[0]}" if kind == "ended" else ""
        return [f"omnihuman: state host={w} state={kind}{code}" for w in workers]
    return [f"omnihuman: {verb} host={w} " for w in workers]


def looked(command, script, state):
    runs = script.get("runs", [["running 1", "ended 0 20"]])
    run = runs[min(state["run"], len(runs) - 1)]
    answer = run[min(state["looked"], len(run) - 1)].split()
    state["looked"] += 1
    step, done = int(answer[-1]), answer[:2] == ["ended", "0"]
    told = {"step": step, "total": 20, "state": "finished" if done and step == 20 else "running"}
    where = CLOUD / "gs" / script.get("health", "b/runs/r/health.json")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps(told, indent=1))
    return answer[:-1]


if __name__ == "__main__":
    sys.exit(main())
