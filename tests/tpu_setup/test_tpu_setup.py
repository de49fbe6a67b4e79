"""tpu_setup/: dry runs print everything and run nothing; with stand-ins for gcloud and the like, whole life cycles.

Nothing here meets a cloud. What runs for real: bash, git, tar, on_host.sh and the workers that it starts.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "tpu_setup"
SUB_COMMANDS = ["create", "install", "run", "watch", "resume", "fetch", "delete"]
PROGRAMS = {"gcloud", "kubectl", "docker", "sbatch", "squeue", "scancel", "scontrol", "ssh", "scp", "rsync"}
TOOLS = {"bash", "cat", "cp", "date", "dirname", "env", "flock", "git", "gzip", "hostname", "mkdir", "python3", "rm"}
TOOLS |= {"sed", "setsid", "tail", "tar"}
AWKWARD = ["--units", "groups:my file.json", "it's", 'say "hi"', "$(touch broken) $HOME", "line\nbreak", "", "a&b;c"]

TPU = ["--zone", "europe-west4-a", "--type", "v6e-8"]
PODS = ["--image", "images/jdt:1", "--tpu", "tpu-v6e-slice", "--topology", "2x4", "--chips", "8"]
POOL = ["--cluster", "c", "--location", "europe-west4-a", "--machine-type", "ct6e-standard-8t"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the scripts are for bash")


class World:
    """A PATH with stand-ins and the few tools that the scripts need: the real programs cannot be reached."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "fakes").mkdir()
        fake = folder / "fakes" / "fake"
        code = (ROOT / "tests/tpu_setup/fake_program.py").read_text()
        fake.write_text(f"#!{sys.executable} -SE\n{code}")
        fake.chmod(0o755)
        for name in PROGRAMS | {"sleep"}:
            (folder / "fakes" / name).symlink_to(fake)
        for name in TOOLS:
            (folder / "bin" / name).symlink_to(shutil.which(name) or pytest.skip(f"needs {name}"))
        # Credentials of the environment, which must turn up in no command.
        self.env = {
            "PATH": f"{folder / 'fakes'}:{folder / 'bin'}",
            "HOME": str(folder),
            "GOOGLE_APPLICATION_CREDENTIALS": "/secret/key.json",
            "CLOUDSDK_AUTH_ACCESS_TOKEN": "secret-token",
        }

    def __call__(self, script: str, *arguments: str, code: int | None = 0) -> str:
        done = subprocess.run(
            ["bash", SETUP / f"{script}.sh", *arguments], env=self.env, cwd=self.folder, capture_output=True, text=True
        )
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.jsonl"
        text = file.read_text() if file.exists() else ""
        assert "secret" not in text
        return [json.loads(line) for line in text.splitlines()]

    def verbs(self) -> list[str]:
        """What was done to slices, pods, jobs and hosts since the last time; looks are left out."""
        words = {"create", "delete", "scp", "ssh", "apply", "sbatch", "scancel", "rsync", "push"}
        found = [next((word for word in call if word in words), "") for call in self.calls()]
        (self.folder / "calls.jsonl").unlink(missing_ok=True)
        return [word for word in found if word]

    def remember(self, **state: str) -> None:
        (self.folder / "state.json").write_text(json.dumps(state))

    def add_host(self, name: str) -> Path:
        """A folder that ssh reaches; its .venv has a python whose pip does nothing. Returns where jdt goes."""
        home = self.folder / "hosts" / name / "jdt-demo"
        python = home / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(
            f'#!/bin/bash\nif [[ $2 == pip ]]; then echo "$*" >>pip.txt; else exec {sys.executable} "$@"; fi\n'
        )
        python.chmod(0o755)
        (home / "worker.py").write_text(WORKER)
        return home


WORKER = """
import json, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with pathlib.Path("starts.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "--stay" in sys.argv:
    signal.pause()
"""


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.calls()  # No secret in any command.


def starts(home: Path, count: int) -> list[list[str]]:
    """The arguments of every worker that started there, once there are so many."""
    file, end = home / "starts.jsonl", time.monotonic() + 20
    while time.monotonic() < end:
        found = file.read_text().splitlines() if file.exists() else []
        if len(found) >= count:
            return [json.loads(line) for line in found]
        time.sleep(0.02)
    raise AssertionError(f"{count} workers did not start in {home}")


def ended(home: Path) -> str:
    """The exit code that on_host.sh recorded there, once it did."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for file in home.glob("logs/*.exit"):
            if file.read_text():
                return file.read_text().strip()
        time.sleep(0.02)
    raise AssertionError(f"no worker ended in {home}")


def hosts_file(world: World, *names: str) -> str:
    (world.folder / "hosts.txt").write_text("".join(f"{name}  # a machine\n" for name in names) + "\n# none\n")
    return "hosts.txt"


def dry_arguments(script: str) -> list[str]:
    """Flags under which every sub-command of a script has all it needs."""
    common = ["--name", "demo", "--dry-run", "--out", "gs://bucket/run", "--to", "runs/here"]
    own = {
        "tpu_vm": [*TPU, "--slices", "2", "--spot", "--project", "p", "--service-account", "a@b"],
        "gke": [*PODS, *POOL, "--workers", "4", "--spot"],
        "slurm": ["--workers", "8", "--options", "--gpus=1 --time=04:00:00"],
        "ssh_hosts": ["--hosts", "hosts.txt"],
    }
    return [*common, *own[script], "--", *AWKWARD]


# What a dry run prints, in this order. A name's last word begins what it does.
ESSENTIALS = {
    "tpu_vm create": [
        "queued-resources list",
        "queued-resources create demo-0 --zone=europe-west4-a --project=p --node-id=demo-0",
        "--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e --spot --service-account=a@b",
        "create demo-1",
    ],
    "tpu_vm install": [
        "git -C",
        "tpu-vm scp",
        "demo-0:jdt-demo.tar.gz",
        "tpu-vm ssh demo-0",
        "on_host.sh install tpu",
        "tpu-vm ssh demo-1",
    ],
    "tpu_vm run": [
        "tpu-vm ssh demo-0",
        "--worker=all",
        "on_host.sh start experiments.class_influence --out gs://bucket/run --shard 0/2",
        "tpu-vm ssh demo-1",
        "--shard 1/2",
    ],
    "tpu_vm watch": ["queued-resources list", "tpu-vm ssh demo-0", "on_host.sh status"],
    "tpu_vm resume": [
        "queued-resources delete demo-0",
        "--force --quiet",
        "queued-resources create demo-0",
        "delete demo-1",
        "create demo-1",
        "tpu-vm scp",
        "on_host.sh install",
        "on_host.sh start",
    ],
    "tpu_vm fetch": [
        "mkdir -p runs/here",
        "gcloud storage rsync --recursive gs://bucket/run runs/here",
        "experiments.verify --run runs/here",
    ],
    "tpu_vm delete": ["queued-resources delete demo-0", "queued-resources delete demo-1"],
    "gke create": [
        "node-pools list",
        "node-pools create demo --cluster=c --location=europe-west4-a",
        "--machine-type=ct6e-standard-8t --num-nodes=4 --spot",
    ],
    "gke install": ["docker build", "--build-arg EXTRA=tpu --tag images/jdt:1", "docker push images/jdt:1"],
    "gke run": ["kubectl get jobset demo", "kind: JobSet", "kubectl apply --filename="],
    "gke watch": ["kubectl get jobset", "kubectl get pods", "kubectl logs"],
    "gke resume": ["kubectl get jobset", "kubectl delete jobset demo", "kubectl apply"],
    "gke fetch": ["gcloud storage rsync"],
    "gke delete": ["kubectl delete jobset demo --ignore-not-found", "node-pools delete demo"],
    "slurm create": ["# nothing to create"],
    "slurm install": ["on_host.sh install cuda13 ''"],
    "slurm run": [
        "squeue --me --name=demo",
        "sbatch --job-name=demo --array=0-7",
        "--gpus=1 --time=04:00:00",
        "job.sbatch",
        "experiments.class_influence --out gs://bucket/run",
    ],
    "slurm watch": ["squeue"],
    "slurm resume": ["squeue", "sbatch"],
    "slurm fetch": ["gcloud storage rsync"],
    "slurm delete": ["squeue", "scancel --me --name=demo"],
    "ssh_hosts create": ["# nothing to create"],
    "ssh_hosts install": [
        "git -C",
        "scp -o BatchMode=yes",
        "one:jdt-demo.tar.gz",
        "ssh -n -o BatchMode=yes one",
        "on_host.sh install cuda13",
        "two:jdt-demo.tar.gz",
    ],
    "ssh_hosts run": ["ssh -n -o BatchMode=yes one", "--shard 0/2", "ssh -n -o BatchMode=yes two", "--shard 1/2"],
    "ssh_hosts watch": ["ssh -n -o BatchMode=yes one", "status", "ssh -n -o BatchMode=yes two"],
    "ssh_hosts resume": ["start", "--shard 1/2"],
    "ssh_hosts fetch": ["gcloud storage rsync"],
    "ssh_hosts delete": ["on_host.sh stop"],
}
SCRIPTS = ["tpu_vm", "gke", "slurm", "ssh_hosts"]


def test_shellcheck_finds_nothing():
    beside = Path(sys.executable).parent / "shellcheck"  # Where pip puts it.
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed: it comes with the dev extra on most platforms")
    files = [*sorted(SETUP.glob("*.sh")), SETUP / "job.sbatch"]
    done = subprocess.run([program, "--external-sources", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_first_lines():
    for file in [*SETUP.glob("*.sh"), SETUP / "job.sbatch"]:
        lines = file.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash"
        assert "set -euo pipefail" in lines or any("common.sh" in line for line in lines)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_every_sub_command_and_flag_with_an_example(world, script):
    text = world(script, "--help")
    assert text == world(script, "run", "--help")
    assert text.startswith(f"Usage: {script}.sh")
    assert re.findall(r"^  (\w+) +\S", text, re.MULTILINE)[: len(SUB_COMMANDS)] == SUB_COMMANDS
    assert "Example:" in text
    code = (SETUP / f"{script}.sh").read_text()
    declared = set(re.findall(r"\[([a-z-]+)\]=", "".join(re.findall(r"^FLAG\+=\((?:.|\n)*?\)$", code, re.MULTILINE))))
    declared |= set("".join(re.findall(r"^SWITCHES\+=\((.*)\)$", code, re.MULTILINE)).split()) | {"module", "dry-run"}
    assert declared <= set(re.findall(r"--([a-z-]+)", text.partition("Example")[0]))


@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_runs_print_every_command_and_run_none(world, script):
    hosts_file(world, "one", "two")
    for sub_command in SUB_COMMANDS:
        text = world(script, sub_command, *dry_arguments(script))
        place = 0
        for essential in ESSENTIALS[f"{script} {sub_command}"]:
            assert essential in text[place:], f"{sub_command}: {essential}\n{text}"
            place = text.index(essential, place) + len(essential)
        assert "secret" not in text
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)  # A dry run is a shell script.
    assert world.calls() == []
    assert sorted(path.name for path in world.folder.iterdir()) == ["bin", "fakes", "hosts.txt"]


def examples() -> dict[str, str]:
    """Shell code of the help texts and of the page, by where it stands."""
    page = (ROOT / "docs/scale_out.md").read_text()
    found = dict(re.findall(r"^```\n(\w+)(\(\) \{ tpu_setup.*?)^```", page, re.MULTILINE | re.DOTALL))
    found = {f"{name} of the page": name + rest for name, rest in found.items()}
    for script in SCRIPTS:
        found[script] = (SETUP / f"{script}.sh").read_text().partition("xample:\n")[2].partition("\nEND\n")[0]
    return found


def test_examples_of_the_help_texts_and_of_the_page_are_valid(world):
    hosts_file(world, "one", "two")
    (world.folder / "tpu_setup").symlink_to(SETUP)
    assert len(examples()) == 2 * len(SCRIPTS)
    for name, code in examples().items():
        dry = code.replace("--name demo", "--name demo --dry-run")
        done = subprocess.run(["bash", "-ec", dry], env=world.env, cwd=world.folder, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), name
        assert "on_host.sh start" in done.stdout or "apply" in done.stdout or "sbatch" in done.stdout, name
    assert world.calls() == []


MISTAKES = [
    (["tpu_vm"], "no sub-command"),
    (["tpu_vm", "make"], "'make' is no sub-command"),
    (["tpu_vm", "create"], "--name is missing"),
    (["tpu_vm", "create", "--name", "Demo 1"], "--name is 'Demo 1'"),
    (["tpu_vm", "create", "--name", "demo", "--type", "v6e-8"], "--zone is missing"),
    (["tpu_vm", "create", "--name", "demo", "--zone", "z"], "--type is missing"),
    (["tpu_vm", "create", "--name", "demo", *TPU, "--slices", "0"], "--slices is '0'"),
    (["tpu_vm", "create", "--name", "demo", "--zone", "z", "--type", "v6e-32", "--slices", "2"], "several hosts"),
    (["tpu_vm", "create", "--name", "demo", "--zone", "z", "--type", "v9z-8"], "pass --runtime"),
    (["tpu_vm", "create", "--name", "demo", "--zone", "z", "--type", "tpu7x-8"], "gke.sh"),
    (["tpu_vm", "create", "--nmae", "demo"], "--nmae is no flag"),
    (["tpu_vm", "create", "--name"], "--name needs a value"),
    (["tpu_vm", "create", "--spot=no"], "--spot takes no value"),
    (["tpu_vm", "create", "demo"], "'demo' is no flag"),
    (["tpu_vm", "run", "--name", "demo", *TPU], "--out is missing"),
    (["tpu_vm", "run", "--name", "demo", *TPU, "--out", "runs/demo"], "--out is 'runs/demo'"),
    (["tpu_vm", "run", "--name", "demo", *TPU, "--out", "gs://b/r", "--", "--shard=0/2"], "--shard stands after --"),
    (["tpu_vm", "run", "--name", "demo", *TPU, "--out", "gs://b/r", "--", "--out", "x"], "--out stands after --"),
    (["tpu_vm", "fetch", "--name", "demo", *TPU, "--out", "gs://b/r"], "--to is missing"),
    (["gke", "create", "--name", "demo", *PODS], "--cluster is missing"),
    (["gke", "run", "--name", "demo", "--out", "gs://b/r", "--chips", "1"], "--tpu and --gpu are both missing"),
    (["gke", "run", "--name", "demo", "--out", "gs://b/r", *PODS, "--gpu", "nvidia-l4"], "pass one of them"),
    (["gke", "run", "--name", "demo", "--out", "runs/demo", *PODS], "pods share no disk"),
    (["slurm", "run", "--name", "demo", "--out", "gs://b/r", "--workers", "many"], "--workers is 'many'"),
    (["ssh_hosts", "run", "--name", "demo", "--out", "gs://b/r"], "--hosts is missing"),
    (["ssh_hosts", "run", "--name", "demo", "--out", "gs://b/r", "--hosts", "none.txt"], "cannot be read"),
    (["ssh_hosts", "run", "--name", "demo", "--out", "runs/demo", "--hosts", "hosts.txt"], "--out is 'runs/demo'"),
]  # fmt: skip


def test_mistakes_are_one_line_and_exit_code_2(world):
    hosts_file(world, "one", "two")
    for arguments, message in MISTAKES:
        text = world(*arguments, code=2)
        assert text.startswith(f"{arguments[0]}.sh: ")
        assert message in text
        assert text.count("\n") == 1, text
    assert world.verbs() == []


class TestSshHosts:
    def test_a_life(self, world):
        homes = [world.add_host("one"), world.add_host("two")]
        given = ["--name", "demo", "--hosts", hosts_file(world, "one", "two")]
        run = [*given, "--out", "gs://bucket/run", "--module", "worker", "--", "--stay", *AWKWARD]

        world("ssh_hosts", "install", *given, "--extra", "", "--prepare", "echo it\\'s >prepared.txt")
        for home in homes:
            assert (home / "jdt/hosts.py").exists()
            assert (home / "prepared.txt").read_text() == "it's\n"
            assert (home / "pip.txt").read_text().endswith("--constraint constraints.txt --editable .\n")

        try:
            assert world("ssh_hosts", "run", *run).count("started") == 2
            for i, home in enumerate(homes):
                assert starts(home, 1) == [["--out", "gs://bucket/run", "--shard", f"{i}/2", "--stay", *AWKWARD]]
            assert world("ssh_hosts", "run", *run).count("already running") == 2  # No second copy.
            assert world("ssh_hosts", "watch", *given).count(": running") == 2
        finally:
            world("ssh_hosts", "delete", *given)
        assert [ended(home) for home in homes] == ["143", "143"]
        world("ssh_hosts", "delete", *given)  # Again: fine.
        assert world("ssh_hosts", "watch", *given).count("ended with exit code 143") == 2

        world("ssh_hosts", "resume", *given, "--out", "gs://bucket/run", "--module", "worker", "--", "--again")
        assert starts(homes[1], 2)[1] == ["--out", "gs://bucket/run", "--shard", "1/2", "--again"]
        assert ended(homes[1]) == "0"

    def test_a_host_that_is_down_does_not_keep_the_others_from_starting(self, world):
        home = world.add_host("two")
        given = ["--name", "demo", "--hosts", hosts_file(world, "one", "two")]
        world("ssh_hosts", "install", *given, code=1)
        text = world("ssh_hosts", "run", *given, "--out", "gs://bucket/run", "--module", "worker", code=1)
        assert "run failed on one" in text
        assert starts(home, 1) == [["--out", "gs://bucket/run", "--shard", "1/2"]]

    def test_a_worker_that_was_killed_is_seen_and_started_again(self, world):
        home = world.add_host("one")
        given = ["--name", "demo", "--hosts", hosts_file(world, "one")]
        run = [*given, "--out", "run", "--module", "worker", "--"]
        world("ssh_hosts", "install", *given)
        world("ssh_hosts", "run", *run, "--stay")
        starts(home, 1)
        os.kill(int(next(home.glob("logs/*.pid")).read_text()), signal.SIGKILL)
        assert ended(home) == "137"
        world("ssh_hosts", "run", *run)
        assert starts(home, 2)[1] == ["--out", "run", "--shard", "0/1"]

    def test_a_dry_run_is_what_a_run_does(self, world):
        world.add_host("one")
        run = ["--name", "demo", "--hosts", hosts_file(world, "one"), "--out", "/shared/run"]
        text = world("ssh_hosts", "run", *run, "--dry-run", "--", *AWKWARD)
        subprocess.run(["bash", "-c", text], env=world.env)
        printed = world.calls()
        world("ssh_hosts", "run", *run, "--", *AWKWARD, code=1)  # Nothing is installed there.
        assert world.calls() == printed * 2


class TestTpuVm:
    def test_create_makes_what_is_missing(self, world):
        given = ["--name", "demo", *TPU, "--slices", "2"]
        world.remember(**{"demo-0": "WAITING_FOR_RESOURCES"})
        world("tpu_vm", "create", *given)
        assert world.verbs() == ["create"]
        assert "demo-1 is there already" in world("tpu_vm", "create", *given)
        assert world.verbs() == []

    def test_a_life_with_a_preemption(self, world):
        homes = [world.add_host("demo-0"), world.add_host("demo-1")]
        given = ["--name", "demo", *TPU, "--slices", "2", "--spot"]
        run = [*given, "--out", "gs://bucket/run", "--module", "worker", "--", *AWKWARD]
        world.remember(new="PROVISIONING")
        world("tpu_vm", "create", *given)
        assert "demo-0: PROVISIONING" in world("tpu_vm", "install", *given)  # It waits.
        assert world.verbs() == ["create", "create", "scp", "ssh", "scp", "ssh"]
        world("tpu_vm", "run", *run)
        for i, home in enumerate(homes):
            assert starts(home, 1) == [["--out", "gs://bucket/run", "--shard", f"{i}/2", *AWKWARD]]
            ended(home)
        assert world("tpu_vm", "watch", *given).count("ended with exit code 0") == 2
        world.verbs()

        world.remember(**{"demo-0": "ACTIVE", "demo-1": "SUSPENDED"})
        world("tpu_vm", "resume", *run)
        assert world.verbs() == ["ssh", "ssh", "delete", "create", "scp", "ssh", "ssh"]  # Two: installed? and start.
        assert starts(homes[1], 2)[1][3] == "1/2"

        world("tpu_vm", "delete", *given)
        assert world.verbs() == ["delete", "delete"]
        world("tpu_vm", "delete", *given)
        assert world.verbs() == []

    def test_a_lost_machine_is_deleted_before_it_is_made_again(self, world):
        world.add_host("demo-0")
        given = ["--name", "demo", *TPU]
        world.remember(**{"demo-0": "ACTIVE", "node demo-0": "PREEMPTED"})
        assert "resume" in world("tpu_vm", "create", *given)
        assert "pre-empted or failed" in world("tpu_vm", "install", *given, code=2)
        assert world.verbs() == []
        world("tpu_vm", "resume", *given, "--out", "gs://b/r", "--module", "worker")
        assert world.verbs() == ["delete", "create", "scp", "ssh", "ssh"]

    def test_a_slice_without_an_installation_gets_one(self, world):
        home = world.add_host("demo-0")
        world.remember(**{"demo-0": "ACTIVE"})
        given = ["--name", "demo", *TPU, "--out", "gs://b/r", "--module", "worker"]
        world("tpu_vm", "run", *given, code=127)
        world("tpu_vm", "resume", *given)
        assert world.verbs() == ["ssh", "ssh", "scp", "ssh", "ssh"]
        assert starts(home, 1) == [["--out", "gs://b/r", "--shard", "0/1"]]

    def test_hosts_of_one_slice_join_and_are_restarted_together(self, world):
        world.add_host("demo-0")
        given = ["--name", "demo", "--zone", "z", "--type", "v5litepod-16"]
        world.remember(**{"demo-0": "ACTIVE"})
        world("tpu_vm", "install", *given)
        world("tpu_vm", "run", *given, "--out", "gs://b/r", "--module", "worker")
        assert starts(world.folder / "hosts/demo-0/jdt-demo", 1) == [["--out", "gs://b/r", "--distributed", "on"]]
        ended(world.folder / "hosts/demo-0/jdt-demo")
        world("tpu_vm", "resume", *given, "--out", "gs://b/r", "--module", "worker")
        calls = [call for call in world.calls() if "ssh" in call]
        verbs = [re.findall(r"on_host.sh (\w+)", call[-1])[0] for call in calls]
        assert verbs == ["install", "start", "installed", "stop", "start"]
        assert all("--worker=all" in call for call in calls)


def manifest(world: World, *arguments: str) -> dict:
    yaml = pytest.importorskip("yaml")
    text = world("gke", "run", "--name", "demo", "--out", "gs://bucket/run", "--dry-run", *arguments)
    jobset = yaml.safe_load(text.partition("<<'END'\n")[2].partition("\nEND\n")[0])
    assert "@" not in re.sub(r'"\$@', "", json.dumps(jobset))  # Nothing is left to fill in.
    return jobset


class TestGke:
    def test_workers_of_their_own_on_spot_tpus(self, world):
        jobset = manifest(world, *PODS, "--workers", "4", "--spot", "--", *AWKWARD)
        assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        [workers] = jobset["spec"]["replicatedJobs"]
        job = workers["template"]["spec"]
        assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
        assert job["backoffLimitPerIndex"] == 10
        assert [rule["action"] for rule in job["podFailurePolicy"]["rules"]] == ["FailJob", "Ignore"]
        pod = job["template"]["spec"]
        assert pod["restartPolicy"] == "Never"  # podFailurePolicy needs it.
        assert pod["nodeSelector"] == {
            "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
            "cloud.google.com/gke-tpu-topology": "2x4",
            "cloud.google.com/gke-spot": "true",
        }
        assert [toleration["key"] for toleration in pod["tolerations"]] == ["cloud.google.com/gke-spot"]
        [container] = pod["containers"]
        assert container["resources"]["limits"] == {"google.com/tpu": 8}
        # As Kubernetes reads arguments: $$ is $, and then bash runs them.
        arguments = [argument.replace("$$", "$") for argument in container["args"]]
        assert arguments == ["experiments.class_influence", "--out", "gs://bucket/run", *AWKWARD]
        command = [part.replace("exec python", "echo") for part in container["command"]]
        shown = subprocess.run([*command, "m"], env={**world.env, "JOB_COMPLETION_INDEX": "3"}, capture_output=True)
        assert shown.stdout == b"-m m --shard 3/4\n"

    def test_hosts_of_one_slice_restart_together(self, world):
        jobset = manifest(world, *PODS, "--workers", "4", "--one-slice")
        assert jobset["metadata"]["annotations"] == {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        }
        job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert job["backoffLimit"] == 0
        assert job["podFailurePolicy"]["rules"][1]["action"] == "Count"
        assert job["template"]["spec"]["containers"][0]["command"][2].endswith("--distributed on")

    def test_gpus(self, world):
        jobset = manifest(world, "--image", "i", "--gpu", "nvidia-l4", "--chips", "1", "--workers", "2")
        pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
        assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}

    def test_a_life(self, world):
        given = ["--name", "demo", *PODS, "--workers", "2", "--namespace", "team"]
        run = [*given, "--out", "gs://bucket/run", "--", *AWKWARD]
        for _ in range(2):
            world("gke", "create", *given, *POOL)
        assert world.verbs() == ["create"]
        world("gke", "install", *given)
        world("gke", "run", *run)
        assert world.calls()[-1][:3] == ["kubectl", "--namespace=team", "apply"]
        assert "running already" in world("gke", "run", *run)
        assert "Kubernetes itself" in world("gke", "resume", *run)
        world("gke", "watch", *given)
        assert world.verbs() == ["push", "apply"]
        world.remember(jobset="demo Failed", pool="demo")
        assert "resume" in world("gke", "run", *run)
        world("gke", "resume", *run)
        assert world.verbs() == ["delete", "apply"]
        for _ in range(2):
            world("gke", "delete", *given, *POOL)
        assert world.verbs() == ["delete", "delete", "delete"]  # JobSet and pool, then what may be left of the JobSet.


class TestSlurm:
    def test_a_life(self, world):
        given = ["--name", "demo", "--workers", "3", "--options", "--partition=gpu --gpus=1"]
        run = [*given, "--out", "runs/demo", "--", *AWKWARD]
        world("slurm", "run", *run)
        [sbatch] = [call for call in world.calls() if call[0] == "sbatch"]
        assert sbatch[1:3] == ["--job-name=demo", "--array=0-2"]
        assert sbatch[5:8] == ["--partition=gpu", "--gpus=1", str(SETUP / "job.sbatch")]
        assert sbatch[9:] == ["experiments.class_influence", "--out", f"{world.folder}/runs/demo", *AWKWARD]
        assert "7_0 RUNNING" in world("slurm", "run", *run)
        world("slurm", "resume", *run)
        world("slurm", "delete", *given)
        assert "no job" in world("slurm", "delete", *given)
        world("slurm", "resume", *run)
        assert world.verbs() == ["sbatch", "scancel", "sbatch"]

    def test_fetch_copies_from_the_shared_file_system(self, world):
        (world.folder / "run").mkdir()
        (world.folder / "run/summary.json").write_text("{}")
        for _ in range(2):
            world("slurm", "fetch", "--name", "demo", "--out", "run", "--to", "here")
        assert (world.folder / "here/summary.json").exists()

    @pytest.mark.parametrize(("sent", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
    def test_a_task_ends_at_a_signal_and_returns_to_the_queue_at_its_time_limit(self, world, sent, requeued):
        (world.folder / "worker.py").write_text(WORKER)
        task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
        job = subprocess.Popen(
            ["bash", SETUP / "job.sbatch", sys.executable, "worker", "--stay"],
            env={**world.env, **task},
            cwd=world.folder,
        )
        assert starts(world.folder, 1) == [["--stay", "--shard", "2/3"]]
        job.send_signal(sent)
        assert job.wait(20) == 143
        assert (["scontrol", "requeue", "7_2"] in world.calls()) == requeued

    def test_a_task_that_fails_or_finishes_does_not_return(self, world):
        task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
        job = ["bash", SETUP / "job.sbatch", sys.executable, "no_such_module"]
        assert subprocess.run(job, env={**world.env, **task}, capture_output=True).returncode == 1
        assert world.calls() == []


def test_an_environment_is_made_once_of_a_new_enough_python(world):
    home = world.add_host("one")
    shutil.copytree(SETUP, home / "tpu_setup")
    shutil.move(home / ".venv", world.folder / "made")
    # Of two Pythons the second is new enough; venv takes the prepared folder.
    for name, code in [("python3.11", "exit 1"), ("python3.12", "[[ $2 != venv ]] || cp -R ../../../made .venv")]:
        (world.folder / "bin" / name).write_text(f"#!/bin/bash\necho {name} $2 >>tried.txt\n{code}\n")
        (world.folder / "bin" / name).chmod(0o755)
    for extra in ["cuda13", "cuda13"]:
        subprocess.run(["bash", home / "tpu_setup/on_host.sh", "install", extra, ""], env=world.env, check=True)
    tried = [line.split()[0] for line in (home / "tried.txt").read_text().splitlines()]
    assert tried == ["python3.11", "python3.12", "python3.12"]  # In the second call neither.
    assert (home / "pip.txt").read_text().count("--editable .[cuda13]") == 2
