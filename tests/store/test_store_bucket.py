"""Runs in a bucket: the real driver against a stand-in server, and the same bytes as on a disk."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bucket import VARIABLES, Bucket
from store_examples import block_arrays, schema, store_bytes, whole, write_missing, writer

from jdt.checks import UserError
from jdt.store import check_run, create_or_open, files, open_run, read_group, saved_groups, write_group

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def bucket():
    with Bucket() as server, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {**VARIABLES, "TENSORSTORE_GCS_HTTP_URL": server.address}.items():
            patch.setenv(name, value)
        yield server
        server.shutdown()


def objects_below(bucket, prefix):
    return {name.removeprefix(prefix): value for name, (_, value) in bucket.objects.items() if name.startswith(prefix)}


def test_a_run_in_a_bucket_has_the_bytes_of_one_on_a_disk(bucket, tmp_path):
    made = schema(targets=("cifar10:test[:50%]",))
    write_missing("gs://bucket/runs/a", made)
    write_missing(tmp_path / "a", made)
    assert objects_below(bucket, "runs/a/store.zarr/") == store_bytes(tmp_path / "a")
    run = open_run("gs://bucket/runs/a")
    np.testing.assert_array_equal(run.mask(), whole(made, "mask"))
    assert run.unit_names == made.unit_names
    assert list(run.targets) == ["cifar10:test[:50%]"]
    assert check_run(run.path).is_sound
    assert writer(run.path, made).missing_blocks() == []


def test_it_grows_is_refused_repaired_and_overwritten_as_on_a_disk(bucket):
    place = "gs://bucket/runs/b"
    write_missing(place, schema(num_models=6))
    made = schema(num_models=10)
    assert writer(place, made).missing_blocks() == [1, 2]
    write_missing(place, made)
    with pytest.raises(UserError, match="seed: saved 0, asked 1"):
        create_or_open(place, config={"seed": 1}, provenance={}, schema=made)
    damaged = "runs/b/store.zarr/source/loss/c/2"
    bucket.objects[damaged] = (bucket.objects[damaged][0] + 1000, b"junk")
    assert [fault.file for fault in check_run(place, repair=True).faults] == ["blocks/000002.json"]
    run = writer(place, made)
    assert run.missing_blocks() == [2]
    run.write_block(2, block_arrays(made, 2), {})
    assert check_run(place).is_sound
    assert writer(place, schema(), overwrite=True).missing_blocks() == [0, 1, 2]
    assert not objects_below(bucket, "runs/b/blocks/")


def test_groups_are_found_and_replaced(bucket):
    path = files.run_path("gs://bucket/runs/c") / "influences"
    place = path / "cifar10/fixed/margin/ridge.zarr"
    for size in (3, 2):
        values = np.arange(float(size))
        write_group(place, {"influence": (values, ("unit",))}, strings={}, attributes={"size": size})
        assert read_group(place).arrays["influence"].tolist() == values.tolist()
    assert saved_groups(path) == [("cifar10", "fixed", "margin", "ridge.zarr")]


def test_a_killed_worker_loses_no_completed_block(bucket, tmp_path):
    made, place = schema(num_models=240, block_size=4, examples=300), "gs://bucket/runs/d"
    done = set()
    for lines in (3, 9):
        process = subprocess.Popen(
            [sys.executable, str(HERE / "store_examples.py"), place, "240", "4", "300"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        )  # fmt: skip
        seen = [process.stdout.readline() for _ in range(lines)]
        time.sleep(0.01)
        process.kill()
        seen += process.communicate()[0].splitlines()
        assert process.returncode == -9, "finished before the kill"
        done |= {int(line.split()[1]) for line in seen if re.fullmatch(r"done \d+\n?", line)}
        run = writer(place, made)
        assert run.damaged == ()
        assert not done & set(run.missing_blocks())
    write_missing(place, made)
    write_missing(tmp_path / "calm", made)
    assert objects_below(bucket, "runs/d/store.zarr/") == store_bytes(tmp_path / "calm")


def test_no_network_is_an_error_with_a_reason(monkeypatch):
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
    monkeypatch.setattr(files, "_RETRIES", {"gcs_request_retries": {"max_retries": 1, "max_delay": "1s"}})
    with pytest.raises(UserError, match=r"gs://unreachable/run.*(retry|refused|connect)"):
        open_run("gs://unreachable/run")
