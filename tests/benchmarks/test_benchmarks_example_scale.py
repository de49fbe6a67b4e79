"""The growth benchmark measures real fits, each in a process of its own."""

import json
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "example_scale.py"


def run(*options):
    command = [sys.executable, str(SCRIPT), "--models", "30", "--targets", "4", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_a_record_for_every_estimator_and_size(tmp_path):
    found = tmp_path / "scale.json"
    table = run("--units", "50", "90", "--estimators", "difference", "lasso", "--json", str(found)).stdout
    records = json.loads(found.read_text())
    assert [(r["estimator"], r["units"]) for r in records] == [
        (name, units) for units in (50, 90) for name in ("difference", "lasso")
    ]
    # Influence, standard error and z of the difference, float32; the LASSO has its weights alone.
    assert [r["result_mib"] * 2**20 for r in records[:2]] == [3 * 50 * 4 * 4, 50 * 4 * 4]
    assert all(r["seconds"] > 0 and r["peak_mib"] >= 0 for r in records)
    assert sum(records[1]["status"].values()) == 4
    assert "difference" in table


def test_a_fit_beyond_the_limit_is_stopped_and_says_so(tmp_path):
    found = tmp_path / "scale.json"
    run("--units", "50", "--estimators", "ridge", "--limit", "0.01", "--json", str(found))
    (record,) = json.loads(found.read_text())
    assert record["seconds"] is None
