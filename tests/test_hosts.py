"""Sharing blocks: laws of who trains what, and real processes that learn their numbers from one another."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.checks import UserError
from jdt.hosts import ALONE, Hosts, join, next_block, one_of_several, parse_shard

ROOT = Path(__file__).parents[1]
SEVERAL = ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES")


@pytest.mark.parametrize("text", ["", "3", "1/0", "a/b", "-1/2", "1/2/3", "1.0/2", "0/1e3", "٣/٤"])
def test_a_shard_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="shard"):
        parse_shard(text)


@pytest.mark.parametrize(("text", "message"), [("2/2", "shard is 2/2"), ("7/4", "numbered from 0")])
def test_a_shard_beyond_the_last_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_shard(text)


def test_a_process_alone_trains_every_block_in_order():
    missing, order = list(range(5)), []
    while (block := next_block(missing, ALONE)) is not None:
        order.append(block)
        missing.remove(block)
    assert order == [0, 1, 2, 3, 4]


def simulate(durations, counts, dies_after, num_blocks):
    """Workers that take turns by their clocks; some die in the middle of a block. Returns what each one finished."""
    hosts = [Hosts(i, counts) for i in range(counts)]
    clock, in_flight, finished = dict.fromkeys(range(counts), 0.0), {}, {i: [] for i in range(counts)}
    missing, started = set(range(num_blocks)), []
    while clock:
        worker = min(clock, key=lambda i: (clock[i], i))
        if worker in in_flight:
            block = in_flight.pop(worker)
            finished[worker].append(block)
            missing.discard(block)
        block = next_block(sorted(missing), hosts[worker])
        if block is None:
            del clock[worker]
            continue
        started.append((worker, block, frozenset(in_flight.values())))
        if len(finished[worker]) == dies_after.get(worker):
            del clock[worker]
            continue
        in_flight[worker] = block
        clock[worker] += durations[worker]
    return finished, missing, started


workers = st.integers(1, 5)


@settings(max_examples=200, deadline=None)
@given(workers, st.integers(0, 30), st.data())
def test_workers_of_any_speed_finish_a_run_together(count, num_blocks, data):
    durations = [data.draw(st.floats(0.1, 10.0)) for _ in range(count)]
    finished, missing, _ = simulate(durations, count, {}, num_blocks)
    assert missing == set()
    assert {block for blocks in finished.values() for block in blocks} == set(range(num_blocks))


@settings(max_examples=200, deadline=None)
@given(workers, st.integers(0, 30), st.data())
def test_what_dead_workers_leave_is_at_most_a_block_each_and_a_restart_does_it(count, num_blocks, data):
    durations = [data.draw(st.floats(0.1, 10.0)) for _ in range(count)]
    dead = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    dies_after = {worker: data.draw(st.integers(0, 4)) for worker in dead}
    _, missing, _ = simulate(durations, count, dies_after, num_blocks)
    assert len(missing) <= len(dead)
    after = data.draw(workers)
    left = sorted(missing)
    for index in range(after):  # Restarted as any number of workers, one after the other.
        while (block := next_block(left, Hosts(index, after))) is not None:
            left.remove(block)
    assert left == []


@pytest.mark.parametrize("count", [2, 3, 8])
def test_no_block_is_trained_twice_at_equal_speed(count):
    finished, _, started = simulate([1.0] * count, count, {}, 40)
    assert sum(map(len, finished.values())) == 40
    assert all(block not in others for _, block, others in started)
    assert max(map(len, finished.values())) == -(-40 // count)


def test_a_slow_worker_is_relieved():
    finished, _, _ = simulate([1.0, 20.0], 2, {}, 40)
    assert len(finished[0]) > 30


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_the_environment_says_whether_there_are_others(monkeypatch, environment, expected):
    for name in SEVERAL:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert one_of_several() == expected
    assert expected or join() == ALONE
    assert join("1/3") == Hosts(1, 3)
    assert join(distributed="off") == ALONE


def test_shard_and_job_exclude_each_other():
    with pytest.raises(UserError, match="--shard and --distributed on"):
        join("0/2", "on")


JOB = """
import sys, time
from jdt.hosts import join
hosts = join()
import jax, jax.numpy as jnp
print(hosts, jax.process_count(), flush=True)
sys.stdin.readline()
print(float(jnp.arange(4.0).sum()), "alive", flush=True)
"""


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_takes_no_other_along(victim):
    port = free_port()
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT,
            env={
                **os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "JAX_NUM_PROCESSES": "3",
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_PROCESS_ID": str(i),
            },
        )
        for i in range(3)
    ]  # fmt: skip
    try:
        assert [job.stdout.readline().split() for job in jobs] == [[f"{i}/3", "3"] for i in range(3)]
        jobs[victim].send_signal(signal.SIGKILL)
        jobs[victim].wait()
        for job in jobs:
            if job is not jobs[victim]:
                out, errors = job.communicate("go on\n", timeout=60)
                assert (job.returncode, out) == (0, "6.0 alive\n"), errors
    finally:
        for job in jobs:
            job.kill()
            job.wait()


@pytest.mark.parametrize("address", ["no-port-here", "127.0.0.1:9"])
def test_a_job_that_cannot_be_joined_is_an_error_of_one_line(monkeypatch, address):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
    with pytest.raises(UserError, match=r"cannot join the other processes of this job .*--shard i/n") as refused:
        join()  # Nobody says how many processes there are.
    assert "\n" not in str(refused.value)
