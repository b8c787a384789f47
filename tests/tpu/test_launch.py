"""tpu/launch.sh against a gcloud that sends nothing: every subcommand, and what may go wrong."""

import json
import os
import shlex
import signal
import subprocess
import time

import pytest

from tests.tpu.launcher import CONFIG, LAUNCH, ROOT, V6E, Cloud


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def test_one_subcommand_after_the_other(cloud):
    """Options are given once; after that NAME is enough."""
    cloud.script(lives=[["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
    cloud("create", "r", *V6E, "--spot", *CONFIG)
    (words,) = cloud.calls("queued-resources", "create")
    assert "--spot" in words and "--accelerator-type=v6e-16" in words
    assert "--runtime-version=v2-alpha-tpuv6e" in words and "--node-id=r" in words
    assert any(w.startswith("--metadata=") and "omnihuman-seconds=86400" in w for w in words), (
        "the guard"
    )
    cloud("wait", "r")
    cloud("setup", "r")
    assert cloud.commands("check") == ["bash omnihuman/r/source/tpu/worker.sh check 16 4 v6e"]
    cloud("run", "r")
    (command,) = cloud.commands("start")
    assert shlex.split(command)[2:] == [
        "start",
        "r",
        "gs://b/runs/r",
        "v6e",
        "--",
        "configs/tiny.py",
        "seed=3",
    ]
    assert all("--worker=all" in words for words in cloud.calls("ssh"))
    assert "state=running" in cloud("status", "r").stdout
    assert "omnihuman: logs" in cloud("logs", "r", "--lines", "5").stdout
    cloud("stop", "r")
    assert cloud.exists(), "stop leaves the machines"
    assert "deleted" in cloud("delete", "r").stderr
    assert not cloud.exists()
    assert "nothing is known of r" in cloud("status", "r", code=2).stderr


def test_other_verbs_stand_before_their_words(cloud):
    cloud("create", "r", *V6E)
    cloud("run", "r", "--", "preprocess", "gs://b/raw", "gs://b/records")
    (command,) = cloud.commands("start")
    assert shlex.split(command)[6:] == ["--", "preprocess", "gs://b/raw", "gs://b/records"]
    said = cloud("run", "r", "--", "serve", "--port", "80", code=2).stderr
    assert "'serve' is no config" in said and len(said.splitlines()) == 1


def test_create_twice_asks_once(cloud):
    cloud("create", "r", *V6E)
    assert "there already" in cloud("create", "r").stderr
    assert len(cloud.calls("create")) == 1


def test_machines_do_not_change_their_kind_behind_the_users_back(cloud):
    cloud("create", "r", *V6E)
    said = cloud("create", "r", "--type", "v6e-64", code=2).stderr
    assert "r was made with type v6e-16, now it is v6e-64" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "name, runtime, count",
    [
        ("v4-64", "tpu-ubuntu2204-base", "32 8 v4"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite", "8 1 v5e"),
        ("v5litepod-64", "v2-alpha-tpuv5-lite", "64 16 v5e"),
        ("v5p-128", "v2-alpha-tpuv5", "64 16 v5p"),
        ("v6e-8", "v2-alpha-tpuv6e", "8 1 v6e"),
        ("v6e-256", "v2-alpha-tpuv6e", "256 64 v6e"),
        ("tpu7x-8", "v2-alpha-tpu7-ubuntu2404", "8 1 tpu7x"),
        ("tpu7x-256", "v2-alpha-tpu7-ubuntu2404", "256 32 tpu7x"),
    ],
)
def test_each_generation_has_its_image_and_its_count_of_devices_and_hosts(
    cloud, name, runtime, count
):
    said = cloud(
        "babysit", "r", "--type", name, "--zone", "z-1-a", *V6E[4:], "--dry-run", *CONFIG
    ).stdout
    assert f"--runtime-version={runtime}" in said and f"worker.sh check {count}'" in said


@pytest.mark.parametrize(
    "capacity, has", [("--spot", "--spot"), ("--reserved", "--reserved"), ("--on-demand", None)]
)
@pytest.mark.parametrize("on", ["queued", "vm"])
def test_capacity(cloud, capacity, has, on):
    cloud("create", "r", *V6E, "--on", on, capacity)
    (words,) = cloud.calls("create")
    assert {"--spot", "--reserved"} & set(words) == ({has} if has else set())


def test_multislice_asks_for_all_slices_and_reaches_every_one(cloud):
    cloud.script(workers=4)
    cloud("create", "r", *V6E, "--slices", "3")
    assert {"--node-count=3", "--node-prefix=r"} <= set(cloud.calls("create")[0])
    cloud("setup", "r")
    assert len(cloud.calls("ssh")) == 6
    assert {words[4] for words in cloud.calls("ssh")} == {"r-0", "r-1", "r-2"}
    assert all("check 48 12 v6e" in command for command in cloud.commands("check"))


def test_words_with_spaces_and_quotes_arrive_as_they_were(cloud):
    odd = ["configs/my run.py", 'task.text=it\'s "so" $HOME', "x=`date`", "y=a\\b", "z=*", "e="]
    cloud("create", "r", *V6E)
    cloud("run", "r", "--", *odd)
    (command,) = cloud.commands("start")
    said = subprocess.run(
        ["bash", "-c", command.replace("bash ", "printf '%s\\0' ", 1)],
        capture_output=True,
        text=True,
    ).stdout
    assert said.split("\0")[6:-1] == odd
    cloud.script(runs=[["running 1"]])
    cloud("run", "r")
    assert cloud.commands("start")[1] == command, "remembered as they were"


@pytest.mark.parametrize(
    "subcommand", ["create", "wait", "setup", "run", "logs", "status", "stop", "delete", "babysit"]
)
@pytest.mark.parametrize("on", ["queued", "vm", "local"])
def test_a_dry_run_prints_and_does_nothing(cloud, subcommand, on):
    kind = ("--type", "local-2", "--workdir", "w") if on == "local" else (*V6E, "--on", on)
    said = cloud(subcommand, "r", *kind, "--dry-run", *CONFIG).stdout
    assert [shlex.split(line) for line in said.splitlines()] or on == "local"
    assert not cloud.calls() and not (cloud.folder / "launch").exists()


def test_a_dry_run_of_babysit_shows_everything_in_order(cloud):
    lines = cloud("babysit", "r", *V6E, "--dry-run", *CONFIG).stdout.splitlines()
    order = [
        " create ",
        "worker.sh setup",
        "worker.sh check",
        "worker.sh start",
        "worker.sh state",
        " delete ",
    ]
    places = [next(n for n, line in enumerate(lines) if word in line) for word in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "no subcommand"),
        (["lunch", "r"], "no subcommand 'lunch'"),
        (["create"], "no NAME"),
        (["create", "R!"], "NAME 'R!'"),
        (["create", "r"], "nothing is known of r yet; give --type"),
        (["create", "r", "--type", "v5e-16"], "use v5litepod-16"),
        (["create", "r", "--type", "v7x-8"], "use tpu7x-8"),
        (["create", "r", "--type", "v6e-17"], "sizes of v6e are 1 4 8 16"),
        (["create", "r", "--type", "v5p-12"], "sizes of v5p are 8 16"),
        (["create", "r", "--type", "h100-8"], "there is v4-8"),
        (["create", "r", "--type", "v6e-16"], "no --zone"),
        (["create", "r", *V6E, "--max-hours", "0"], "--max-hours 0: a number above 0"),
        (["create", "r", *V6E, "--slices", "x"], "--slices x"),
        (["create", "r", *V6E, "--spot", "--reserved"], "--spot and --reserved"),
        (["create", "r", *V6E, "--on", "vm", "--slices", "2"], "multislice needs queued"),
        (["create", "r", *V6E, "--reservation", "n"], "only xpk does; use --reserved"),
        (["create", "r", *V6E, "--spott"], "unknown option '--spott'"),
        (["create", "r", "--type"], "--type needs a value"),
        (["create", "r", *V6E, "--workdir", "here"], "use gs://BUCKET/FOLDER"),
        (["create", "r", *V6E, "--zone", "a b"], "--zone 'a b'"),
        (["run", "r", *V6E[:4], *CONFIG], "no --workdir"),
        (["run", "r", *V6E], "no config"),
        (["run", "r", *V6E, "--", "c.py", "--workdir=x"], "give --workdir before the --"),
        (["run", "r", *V6E, "--on", "vertex", *CONFIG], "no --image"),
        (["wait", "r", *V6E, "--on", "xpk"], "GKE queues by itself"),
        (
            ["run", "r", "--type", "v5p-8", *V6E[2:], "--on", "vertex", "--image", "i", *CONFIG],
            "v5e and v6e",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(cloud, words, says):
    said = cloud(*words, code=2).stderr
    assert says in said and len(said.splitlines()) == 1
    assert not cloud.calls() and not (cloud.folder / "launch").exists()


def test_quota_refused_says_what_to_do_and_is_not_asked_again(cloud):
    cloud.script(
        refuse=["RESOURCE_EXHAUSTED: Quota 'TPUV6EPerProject' exhausted. Limit 0 in zone"] * 9
    )
    said = cloud("create", "r", *V6E, code=1).stderr
    assert "lack of quota" in said and "us-east5-b" in said and "Limit 0" in said
    assert len(cloud.calls("create")) == 1
    cloud("create", "r", *V6E[:2], "--zone", "us-east1-d", code=1)  # nothing was remembered


def test_what_passes_is_tried_again_and_not_for_ever(cloud):
    cloud("create", "r", *V6E)
    cloud.script(ssh_fails=2)
    cloud("setup", "r")
    assert len(cloud.calls("ssh")) == 4
    cloud.script(ssh_fails=99)
    said = cloud("run", "r", *CONFIG, code=1).stderr
    assert "given up after 5 attempts" in said and "Connection refused" in said
    assert len(cloud.calls("ssh")) == 9


def test_a_failed_request_does_not_look_ready(cloud):
    cloud.script(lives=[["ACCEPTED", "FAILED"]])
    cloud("create", "r", *V6E)
    assert "r is failed" in cloud("wait", "r", code=1).stderr


@pytest.mark.parametrize(
    "fault, says", [("differ", "the workers differ in versions"), ("unchecked", "12 devices")]
)
def test_setup_refuses_workers_that_differ_or_see_too_little(cloud, fault, says):
    cloud.script(**{fault: True})
    cloud("create", "r", *V6E)
    done = cloud("setup", "r", code=1)
    assert says in done.stdout + done.stderr
    cloud.script(workers=3)
    assert "3 of 4 workers answered" in cloud("setup", "r", code=1).stderr


def test_a_preempted_run_gets_new_machines_and_goes_on_as_the_same_run(cloud):
    cloud.script(
        lives=[
            ["WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDED"],
            ["ACTIVE"],
        ],
        runs=[["running 4", "running 9"], ["running 12", "ended 0 20"]],
    )
    said = cloud("babysit", "r", *V6E, "--spot", *CONFIG).stderr
    assert "pre-empted" in said and "finished at step 20" in said
    first, second = cloud.commands("start")
    assert first == second and " r gs://b/runs/r " in first
    assert len(cloud.commands("setup")) == 2
    assert [bool("--spot" in words) for words in cloud.calls("create")] == [True, True]
    assert not cloud.exists(), "nothing is left that costs"


def test_babysit_started_again_goes_on_watching(cloud):
    cloud("create", "r", *V6E)
    cloud("setup", "r")
    cloud("run", "r", *CONFIG)
    cloud("babysit", "r")
    assert len(cloud.commands("start")) == 1 and len(cloud.calls("create")) == 1


def test_failures_without_a_new_step_are_counted_and_end_it(cloud):
    cloud.script(runs=[["running 3", "ended 1 3"]])
    said = cloud("babysit", "r", *V6E, "--tries", "3", *CONFIG, code=1).stderr
    assert "given up at step 3" in said
    assert len(cloud.commands("start")) == 4, "one made progress, three did not"
    assert not cloud.exists()


def test_a_program_that_refuses_its_input_is_not_started_again(cloud):
    cloud.script(runs=[["ended 2 0"]])
    said = cloud("babysit", "r", *V6E, *CONFIG, code=2).stderr
    assert "refuses its input" in said and len(cloud.commands("start")) == 1
    assert not cloud.exists()


def test_workers_that_are_done_wait_for_the_one_that_writes_the_model(cloud):
    cloud.script(runs=[["running 3", "leaving 20", "leaving 20", "ended 0 20"]])
    said = cloud("babysit", "r", *V6E, *CONFIG).stderr
    assert "finished at step 20" in said and len(cloud.commands("start")) == 1


def test_a_run_without_new_steps_counts_as_failed(cloud):
    cloud.script(runs=[["running 3"]])
    cloud.environment["LAUNCH_PAUSE"] = "0.3"
    said = cloud(
        "babysit", "r", *V6E, "--tries", "2", "--hung-minutes", "0.01", *CONFIG, code=1
    ).stderr
    assert "no new step for 0.01 minutes" in said


def test_max_hours_end_it_and_delete(cloud):
    cloud.script(runs=[["running 3", "running 4", "running 5"]])
    cloud.environment["LAUNCH_PAUSE"] = "0.3"
    said = cloud("babysit", "r", *V6E, "--max-hours", "0.0003", *CONFIG, code=1).stderr
    assert "--max-hours 0.0003 are over" in said and not cloud.exists()


def test_keep_leaves_the_machines(cloud):
    cloud("babysit", "r", *V6E, "--keep", *CONFIG)
    assert cloud.exists()


def test_interrupted_is_130_and_says_that_costs_go_on(cloud):
    cloud.script(runs=[["running 3"]])
    cloud.environment["LAUNCH_PAUSE"] = "2"
    process = subprocess.Popen(
        [str(LAUNCH), "babysit", "r", *V6E, *CONFIG],
        env=cloud.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background, interrupts are ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not cloud.commands("state"):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "costs go on" in said
    assert cloud.exists()


def test_xpk_and_vertex_commands(cloud):
    more = ("--image", "us-docker.pkg.dev/p/r/omnihuman:1", "--project", "p", "--dry-run")
    gke = ("--on", "xpk", "--cluster", "c", "--slices", "2", "--spot")
    (line,) = cloud("create", "r", *V6E, *gke, *more).stdout.splitlines()
    assert shlex.split(line)[:3] == ["xpk", "cluster", "create"] and "--num-slices=2 --spot" in line
    (line,) = cloud("run", "r", *V6E, *gke, *more, *CONFIG).stdout.splitlines()
    words = shlex.split(line)
    assert {
        "--workload=r",
        "--cluster=c",
        "--tpu-type=v6e-16",
        "--num-slices=2",
        "--max-restarts=5",
    } <= set(words)
    assert (
        "--command=bash tpu/worker.sh here r gs://b/runs/r v6e -- configs/tiny.py seed=3" in words
    )
    said = cloud("run", "r", *V6E, "--on", "vertex", "--spot", *more, *CONFIG, 'x="q" \\').stdout
    job = json.loads("".join(line[2:] for line in said.splitlines()[1:] if line.startswith("# ")))
    (pool,) = job["workerPoolSpecs"]
    assert pool["machineSpec"] == {"machineType": "ct6e-standard-4t", "tpuTopology": "4x4"}
    assert pool["containerSpec"]["args"][-3:] == ["configs/tiny.py", "seed=3", 'x="q" \\']
    assert job["scheduling"] == {
        "timeout": "86400s",
        "restartJobOnWorkerRestart": True,
        "strategy": "SPOT",
    }
    assert (
        "gcloud ai custom-jobs create --display-name=r --config=job.yaml --region=us-east5" in said
    )


def test_shellcheck_finds_nothing():
    files = [*ROOT.glob("tpu/*.sh"), *ROOT.glob("tpu/lib/*.sh")]
    assert len(files) > 8
    done = subprocess.run(
        ["shellcheck", "-x", *files], capture_output=True, text=True, env=with_venv()
    )
    assert done.returncode == 0, done.stdout


def with_venv():
    """The environment with the programs that pip has installed."""
    import sysconfig

    return {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
