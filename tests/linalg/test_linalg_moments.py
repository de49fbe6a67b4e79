import dataclasses
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.linalg import moments
from jdt.linalg.moments import ROWS_A_BLOCK, Moments, pack, sum_blocks, sum_moments, sum_over_hosts, unpack

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = [(1, 1, 1), (1, 9, 2), (7, 3, 3), (ROWS_A_BLOCK, 8, 2), (ROWS_A_BLOCK + 1, 8, 2), (2500, 17, 3)]
FIELDS = [field.name for field in dataclasses.fields(Moments)]


def rows(seed, models, units, targets, *, level=0.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.random((models, units)) < 0.5, (level + rng.normal(size=(models, targets))).astype(dtype)


def plain(masks, outputs):
    """The sums in float64 NumPy."""
    x, y = masks.astype(np.int64), outputs.astype(np.float64)
    return Moments(len(x), x.sum(axis=0), x.T @ x, x.T @ y, y.sum(axis=0), (y**2).sum(axis=0))


def assert_close(found, expected, *, count, rtol):
    """Counts are equal; sums differ by no more than `rtol` of what their terms add up to in size."""
    assert found.count == expected.count == count
    assert found.pairs.dtype == np.int64
    np.testing.assert_array_equal(found.pairs, expected.pairs)
    np.testing.assert_array_equal(found.kept, expected.kept)
    size = np.sqrt(count * expected.square)
    np.testing.assert_allclose(found.total / size, expected.total / size, atol=rtol)
    np.testing.assert_allclose(found.cross / size, expected.cross / size, atol=rtol)
    np.testing.assert_allclose(found.square, expected.square, rtol=rtol)


@pytest.mark.parametrize(("x64", "rtol"), [(False, 1e-6), (True, 1e-13)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, level=st.sampled_from([0.0, -3.0, 1000.0]))
def test_they_are_numpys(shape, x64, rtol, seed, level):
    masks, outputs = rows(seed, *shape, level=level, dtype=np.float64 if x64 else np.float32)
    with jax.enable_x64(x64):
        found = sum_moments(masks, outputs)
    assert {getattr(found, name).dtype for name in ("cross", "total", "square")} == {np.dtype(np.float64)}
    assert_close(found, plain(masks, outputs), count=shape[0], rtol=rtol)


def test_a_million_rows_lose_nothing():
    masks, outputs = rows(0, 1_000_000, 4, 3, level=100.0, dtype=np.float32)
    found, expected = sum_moments(masks, outputs), plain(masks, outputs)
    assert_close(found, expected, count=1_000_000, rtol=1e-9)
    # What is left of outputs without their level, which is what regressions use.
    spread = found.square - found.total**2 / 1e6
    np.testing.assert_allclose(spread, ((outputs - outputs.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0), rtol=1e-7)
    # The control: one float32 running sum over all rows.
    naive = np.cumsum(outputs, axis=0, dtype=np.float32)[-1].astype(np.float64)
    lost = np.abs(naive / expected.total - 1).max()
    assert lost > 1e-5
    assert np.abs(found.total / expected.total - 1).max() < 1e-4 * lost


@pytest.mark.parametrize("count", [9000, 8 * ROWS_A_BLOCK, 300])
def test_eight_devices_sum_what_one_does(count):
    masks, outputs = rows(1, count, 6, 2, level=5.0, dtype=np.float32)
    one, eight = (sum_moments(masks, outputs, num_devices=n) for n in (1, 8))
    assert_close(eight, one, count=count, rtol=1e-7)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_parts_add_up_and_take_away(seed):
    masks, outputs = rows(seed, 60, 5, 2, level=3.0, dtype=np.float32)
    first, second, whole = (sum_moments(masks[s], outputs[s]) for s in (slice(25), slice(25, None), slice(None)))
    assert_close(first + second, whole, count=60, rtol=1e-6)
    assert_close(whole - first, second, count=35, rtol=1e-6)
    blocks = ((masks[i : i + 35], outputs[i : i + 35]) for i in (0, 35))
    assert_close(sum_blocks(blocks), whole, count=60, rtol=1e-6)


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_without_pairs_all_else_is_the_same(seed):
    masks, outputs = rows(seed, 1500, 5, 2, dtype=np.float32)
    without, whole = (sum_moments(masks, outputs, with_pairs=p) for p in (False, True))
    assert without.pairs is None
    assert (without + whole).pairs is None
    assert_close(dataclasses.replace(without, pairs=whole.pairs), whole, count=1500, rtol=1e-12)
    assert sum_over_hosts(without) is without


def test_a_second_call_of_one_shape_compiles_nothing():
    masks, outputs = rows(0, 50, 5, 2, dtype=np.float32)
    sum_moments(masks, outputs)
    compiled = moments._sum_blocks(5, 1, True)._cache_size()
    sum_moments(~masks, 2 * outputs)
    assert moments._sum_blocks(5, 1, True)._cache_size() == compiled


@pytest.mark.parametrize("units", [1, 7, 8, 9, 40])
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_bits_come_back_as_they_went(units, seed):
    masks = np.random.default_rng(seed).random((5, units)) < 0.5
    bits = pack(masks)
    assert bits.shape == (5, -(-units // 8))
    assert bits.dtype == np.uint8
    ones = unpack(jnp.asarray(bits), units, jnp.float32)
    assert ones.dtype == jnp.float32
    np.testing.assert_array_equal(ones, masks)


def test_one_process_has_the_sum_of_all_processes():
    found = sum_moments(*rows(0, 10, 3, 2, dtype=np.float32))
    assert sum_over_hosts(found) is found


# Counts above 2**32 and sums that float32 does not hold: nothing may be rounded on the way.
HOST = """
import sys
import jax
import numpy as np

port, rank, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank, initialization_timeout=60)
from jdt.linalg.moments import Moments, sum_moments, sum_over_hosts

rng = np.random.default_rng(rank)
mine = sum_moments(rng.random((30 + rank, 5)) < 0.5, rng.normal(size=(30 + rank, 2)).astype(np.float32))
mine = mine + Moments(
    2**40 + rank, np.full(5, 2**45), np.full((5, 5), 2**50 + rank), np.full((5, 2), 1 / 3), np.full(2, 0.1), np.ones(2)
)
total = sum_over_hosts(mine)
np.savez(path, **{f"{name}_{part}": np.asarray(getattr(moments, name))
                  for part, moments in (("mine", mine), ("total", total))
                  for name in ("count", "kept", "pairs", "cross", "total", "square")})
"""


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_two_processes_get_the_sum_of_both_to_the_last_bit(tmp_path):
    port = free_port()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(port), str(rank), str(tmp_path / f"{rank}.npz")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    for name in FIELDS:
        expected = functools.reduce(np.add, (host[f"{name}_mine"] for host in found))
        for host in found:
            assert host[f"{name}_total"].dtype == expected.dtype
            np.testing.assert_array_equal(host[f"{name}_total"], expected)
    assert int(found[0]["count_total"]) == 2**41 + 1 + 61
