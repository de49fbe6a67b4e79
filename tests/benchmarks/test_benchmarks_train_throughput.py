import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "train_throughput.py"), *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_the_script_writes_one_record_a_variant(tmp_path):
    saved = tmp_path / "records.json"
    done = run_script(
        "--network=small_cnn", "--models=2", "--image-size=8", "--batch-size=8", "--steps=2", "--repeats=2",
        "--variants", "jdt vmapped", "jdt native", f"--json={saved}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = json.loads(saved.read_text())
    names = ["jdt vmapped", "jdt native"]
    assert [(r["models"], r["variant"]) for r in records] == [(2, name) for name in names]
    assert all(name in done.stdout for name in names)

    # A training step is three forward passes less the gradient of the first layer's input: see SmallCNN's layers.
    layers = [2 * 8 * pixels * 9 * a * b for pixels, a, b in [(64, 3, 32), (16, 32, 64), (4, 64, 128), (1, 128, 128)]]
    forward = sum(layers) + 2 * 8 * 128 * 100
    for r in records:
        assert r["network"] == "small_cnn"
        assert (r["batch_size"], r["image_size"], r["classes"], r["steps_per_model"]) == (8, 8, 100, 2)
        assert r["models_together"] == 2
        low, high = r["images_per_second_range"]
        assert 0 < low <= r["images_per_second"] <= high
        assert r["seconds_per_step"] == pytest.approx(8 / r["images_per_second"])
        assert r["ratio_to_best_torch"] is None
        assert r["compile_seconds"] > 0
        assert r["flops_per_step"] == 3 * forward - layers[0]
        assert r["fraction_of_arithmetic_floor"] == pytest.approx(
            r["flops_per_step"] / r["matrix_product_flops_per_second"] / r["seconds_per_step"]
        )
        assert r["device"]
        assert {"python", "jax", "flax"} <= r["versions"].keys()


def test_an_unknown_variant_is_named_with_the_known_ones():
    done = run_script("--variants", "jdt fastest")
    assert done.returncode == 1
    assert "unknown variant jdt fastest" in done.stderr
    assert "jdt auto" in done.stderr


def test_sweeps_double_up_to_the_value_given(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("train_throughput")
    base = script.Workload("resnet9", 12, 64, 128, 100, 0, "float32", "cpu")
    assert [w.models for w in script.sweep(base, "models")] == [1, 2, 4, 8, 12]
    assert [w.image_size for w in script.sweep(base, "image-size")] == [16, 32, 64]
    assert script.sweep(base, None) == [base]
    assert {w.models for w in script.sweep(base, "image-size")} == {12}
    assert dataclasses.replace(base, steps=5).steps_of(8) == 8  # 60 model steps, eight at a time, are 7.5 rounds.
