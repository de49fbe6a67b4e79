import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_examples import CONFIG, block_arrays, schema, store_bytes, whole, write_missing, writer

from jdt.checks import UserError
from jdt.store import open_run, safe_name, write_json
from jdt.store.records import sealed


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 8), st.integers(0, 9), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, num_models, block_size, units, examples, two):
    path = tmp_path_factory.mktemp("run") / "r"
    made = schema(num_models, block_size, units, examples, ("a", "b c") if two else ("a",), ("fixed", "full"))
    write_missing(path, made)
    run = open_run(path)
    for name in made.columns():
        np.testing.assert_array_equal(run.column(name), whole(made, name))
        assert run.column(name).dtype == np.dtype(made.columns()[name].dtype)
    assert run.complete.tolist() == list(range(num_models))
    assert run.unit_names == made.unit_names
    assert [*run.targets] == [*made.targets]
    np.testing.assert_array_equal(run.targets["a"].labels, made.targets["a"].labels)
    assert run.targets["a"].class_names == made.targets["a"].class_names
    assert [*made.blocks()][-1].stop == num_models


def test_run_holds_what_was_asked(tmp_path):
    made = schema()
    write_missing(tmp_path / "r", made)
    run = open_run(tmp_path / "r")
    assert run.config == CONFIG
    assert run.provenance == {"device": "cpu"}
    assert run.summary is None
    write_json(
        tmp_path / "r" / "summary.json", {"lds": {"value": np.float32(0.5), "low": float("nan"), "n": np.int64(3)}}
    )
    assert run.summary == {"lds": {"value": 0.5, "low": None, "n": 3}}
    assert [r["models"] for r in run.records()] == [[0, 4], [4, 8], [8, 10]]
    assert {"checksums", "seconds", "host", "config_fingerprint", "written"} <= run.records()[0].keys()


def test_only_recorded_rows_are_data_and_a_run_is_a_snapshot(tmp_path):
    made = schema()
    run_writer = writer(tmp_path / "r", made)
    run_writer.write_block(2, block_arrays(made, 2), {})
    run = open_run(tmp_path / "r")
    run_writer.write_block(0, block_arrays(made, 0), {})
    assert run.complete.tolist() == [8, 9]
    np.testing.assert_array_equal(run.mask(), block_arrays(made, 2)["mask"])
    assert open_run(tmp_path / "r").complete.tolist() == [0, 1, 2, 3, 8, 9]
    assert run_writer.missing_blocks() == [1]


def test_zarr_and_xarray_read_the_same(tmp_path):
    made = schema(examples=9000, targets=("cifar10:test[:50%]",), modes=("fixed", "full"))
    write_missing(tmp_path / "r", made)
    store = tmp_path / "r" / "store.zarr"
    group = zarr.open_group(store, mode="r")
    for name, column in made.columns().items():
        array = group[column.path]
        assert array.metadata.dimension_names == column.dims
        np.testing.assert_array_equal(array[:], whole(made, name))
    assert group["targets/cifar10:test[:50%]/fixed/margin"].chunks == (4, 3000)
    assert [*group["unit_name"][:]] == [*made.unit_names]

    top = xr.open_zarr(store, consolidated=False)
    assert top.coords["unit_name"].values.tolist() == [*made.unit_names]
    np.testing.assert_array_equal(top["mask"], whole(made, "mask"))
    target = xr.open_zarr(store, group="targets/cifar10:test[:50%]", consolidated=False)
    assert target.coords["class_name"].values.tolist() == [*made.targets["cifar10:test[:50%]"].class_names]
    mode = xr.open_zarr(store, group="targets/cifar10:test[:50%]/fixed", consolidated=False)
    assert mode["margin"].dims == ("model", "example")
    np.testing.assert_array_equal(mode.coords["label"], made.targets["cifar10:test[:50%]"].labels)
    np.testing.assert_array_equal(mode["margin"], whole(made, "targets/cifar10:test[:50%]/fixed/margin"))
    np.testing.assert_array_equal(
        xr.open_zarr(store, group="source", consolidated=False)["loss"], whole(made, "source/loss")
    )


def test_rows_not_written_read_as_nothing_elsewhere(tmp_path):
    made = schema()
    writer(tmp_path / "r", made).write_block(0, block_arrays(made, 0), {})
    group = zarr.open_group(tmp_path / "r" / "store.zarr", mode="r")
    assert np.isnan(group["targets/cifar10/fixed/margin"][4:]).all()
    assert (group["targets/cifar10/fixed/prediction"][4:] == -1).all()
    assert not group["mask"][4:].any()


def test_writing_twice_gives_the_same_files(tmp_path):
    made = schema()
    run = write_missing(tmp_path / "r", made)
    before = {f: f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file()}
    for block in range(3):
        run.write_block(block, block_arrays(made, block), {"seconds": 9.0})
    assert writer(tmp_path / "r", made).missing_blocks() == []
    assert {f: f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file()} == before


def test_values_equal_to_the_fill_value_are_stored_all_the_same(tmp_path):
    made = schema(num_models=4)
    blank = {n: np.zeros_like(v) if v.dtype == bool else v * np.nan for n, v in block_arrays(made, 0).items()}
    blank["targets/cifar10/fixed/prediction"] = np.full((4, 7), -1, np.int32)
    writer(tmp_path / "r", made).write_block(0, blank, {})
    assert writer(tmp_path / "r", made).missing_blocks() == []
    chunks = (tmp_path / "r/store.zarr").rglob("c/0/0")
    assert len([*chunks]) == 4  # Mask, margin, confidence and prediction, although they hold nothing but fill values.


@pytest.mark.parametrize("change", ["lacks", "unknown", "shape", "dtype", "block", "record"])
def test_a_block_that_does_not_fit_is_refused(tmp_path, change):
    made = schema()
    run, arrays, block, record = writer(tmp_path / "r", made), block_arrays(made, 0), 0, {}
    if change == "lacks":
        del arrays["mask"]
    elif change == "unknown":
        arrays["targets/other/fixed/margin"] = arrays["mask"]
    elif change == "shape":
        arrays["mask"] = arrays["mask"][:3]
    elif change == "dtype":
        arrays["source/loss"] = arrays["source/loss"].astype(np.float64)
    elif change == "block":
        block = 3
    else:
        record = {"checksums": {}}
    with pytest.raises(UserError, match=r"mask|other|float64|blocks 0 to 2|checksums"):
        run.write_block(block, arrays, record)
    assert run.missing_blocks() == [0, 1, 2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [(("cifar1",), "cifar10"), (("cifar10", "full"), "fixed"), (("cifar10", "fixed", "gain"), "confidence")],
)
def test_unknown_names_list_what_exists(tmp_path, asked, message):
    write_missing(tmp_path / "r", schema())
    with pytest.raises(UserError, match=message):
        open_run(tmp_path / "r").outputs(*asked)


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../../evil", "/etc/passwd", "a/b", "zarr.json", "__x", "label", "a\0b", "é" * 300]
)
def test_names_never_leave_their_folder(tmp_path, name):
    safe = safe_name(name)
    assert safe not in {"", ".", "..", "zarr.json", "label"}
    assert "/" not in safe
    assert len(safe) < 200
    made = schema(num_models=2, block_size=2, targets=(name,))
    write_missing(tmp_path / "in" / "r", made)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["r"]
    np.testing.assert_array_equal(
        open_run(tmp_path / "in" / "r").outputs(name), whole(made, f"targets/{name}/fixed/margin")
    )


def test_edited_names_in_run_json_do_not_lead_elsewhere(tmp_path):
    write_missing(tmp_path / "r", schema())
    saved = json.loads((tmp_path / "r/run.json").read_text())
    saved["schema"]["targets"]["../../secret"] = saved["schema"]["targets"].pop("cifar10")
    saved.pop("digest")
    (tmp_path / "r/run.json").write_text(json.dumps(sealed(saved)))  # By somebody who knows how.
    with pytest.raises(UserError, match="columns"):
        open_run(tmp_path / "r")


def test_two_names_for_one_folder_are_refused():
    with pytest.raises(UserError, match="rename one"):
        schema(targets=("a/b", "a_b"))


def test_nothing_is_pickled_and_the_import_is_light(tmp_path):
    write_missing(tmp_path / "r", schema())
    assert not any(b"\x80\x04\x95" in content for content in store_bytes(tmp_path / "r").values())
    code = "import sys, jdt.store; print([m for m in ('tensorstore', 'zarr', 'xarray') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
