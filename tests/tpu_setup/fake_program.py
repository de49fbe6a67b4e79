"""Stands for gcloud, kubectl, sbatch, ssh and the like, under whose names it is linked.

Every call is appended to calls.jsonl beside the folder of links. state.json remembers what exists, so that a look sees
what an earlier call made. ssh and scp reach folders in hosts/, where commands really run.
"""

import json
import os
import sys

FAKES, NAME = os.path.split(sys.argv[0])
WORLD, ARGUMENTS = os.path.dirname(FAKES), sys.argv[1:]


def read() -> dict[str, str]:
    try:
        with open(f"{WORLD}/state.json") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def write(state: dict[str, str]) -> None:
    with open(f"{WORLD}/state.json", "w") as file:
        json.dump(state, file)


def change(name: str, value: str | None) -> None:
    state = {key: old for key, old in read().items() if key != name}
    write(state if value is None else {**state, name: value})


def flag(name: str) -> str:
    return next(argument.partition("=")[2] for argument in ARGUMENTS if argument.startswith(f"{name}="))


def on_host(host: str, command: str) -> int:
    home = f"{WORLD}/hosts/{host}"
    if not os.path.isdir(home):
        print(f"no route to {host}", file=sys.stderr)
        return 255
    os.chdir(home)
    os.execve("/bin/sh", ["sh", "-c", command], {**os.environ, "HOME": home})


def copy(source: str, target: str) -> int:
    host, _, path = target.partition(":")
    if not os.path.isdir(f"{WORLD}/hosts/{host}"):
        return 1
    with open(source, "rb") as file, open(f"{WORLD}/hosts/{host}/{path}", "wb") as copied:
        copied.write(file.read())
    return 0


def answer() -> int:
    state = read()
    match [NAME, *ARGUMENTS]:
        case ["gcloud", "compute", "tpus", "queued-resources", "list", *_]:
            print(state.get(flag("--filter").split("/")[-1].rstrip("$"), ""))
        case ["gcloud", "compute", "tpus", "tpu-vm", "list", *_]:
            print(state.get(f"node {flag('--filter').split('/')[-1].rstrip('$')}", "READY"))
        case ["gcloud", "compute", "tpus", "queued-resources", "create", name, *_]:
            change(name, state.get("new", "ACTIVE"))
        case ["gcloud", "compute", "tpus", "queued-resources", "delete", name, *_]:
            change(name, None)
            change(f"node {name}", None)
        case ["gcloud", "compute", "tpus", "tpu-vm", "ssh", name, *_]:
            return on_host(name, flag("--command"))
        case ["gcloud", "compute", "tpus", "tpu-vm", "scp", source, target, *_]:
            return copy(source, target)
        case ["gcloud", "container", "node-pools", "list", *_]:
            print(state.get("pool", ""))
        case ["gcloud", "container", "node-pools", "create", name, *_]:
            change("pool", name)
        case ["gcloud", "container", "node-pools", "delete", *_]:
            change("pool", None)
        case ["kubectl", *rest] if "get" in rest and "--ignore-not-found" in rest and "jobset" in state:
            print(state["jobset"], end="")
        case ["kubectl", *rest] if "apply" in rest:
            change("jobset", "demo ")
        case ["kubectl", *rest] if "delete" in rest:
            change("jobset", None)
        case ["squeue", *_]:
            print(state.get("jobs", ""))
        case ["sbatch", *_]:
            change("jobs", "7_0 RUNNING")
        case ["scancel", *_]:
            change("jobs", None)
        case ["sleep", *_]:  # Time passes: what was queued is there.
            write({key: value.replace("PROVISIONING", "ACTIVE") for key, value in state.items()})
        case ["ssh", *_]:
            return on_host(ARGUMENTS[-2], ARGUMENTS[-1])
        case ["scp", *_]:
            return copy(*ARGUMENTS[-2:])
    return 0


with open(f"{WORLD}/calls.jsonl", "a") as calls:
    calls.write(json.dumps([NAME, *ARGUMENTS]) + "\n")
sys.exit(answer())
