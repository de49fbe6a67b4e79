import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.checks import UserError
from jdt.store import read_group, write_group


def influences(units=6, examples=10, dtype=np.float32):
    rng = np.random.default_rng(units)
    arrays = {
        "influence": (rng.normal(size=(units, examples)).astype(dtype), ("unit", "example")),
        "intercept": (rng.normal(size=examples).astype(dtype), ("example",)),
        "label": (np.arange(examples, dtype=np.int32), ("example",)),
        "kept": (rng.random(units) < 0.5, ("unit",)),
        "penalty": (np.asarray(0.25), ()),
    }
    return arrays, {"unit_name": ([f"u{i} é" for i in range(units)], "unit")}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.sampled_from([np.float16, np.float32, np.float64]))
def test_what_is_written_is_read(tmp_path_factory, units, examples, dtype):
    path = tmp_path_factory.mktemp("g") / "deep" / "ridge.zarr"
    arrays, strings = influences(units, examples, dtype)
    write_group(path, arrays, strings=strings, attributes={"estimator": "ridge", "penalties": (0.1, 1.0)})
    read, names, attributes = read_group(path)
    assert read.keys() == arrays.keys()
    for name, (values, _) in arrays.items():
        np.testing.assert_array_equal(read[name], values)
        assert read[name].dtype == values.dtype
    assert names == {"unit_name": tuple(strings["unit_name"][0])}
    assert attributes == {"estimator": "ridge", "penalties": [0.1, 1.0]}
    assert [p.name for p in path.parent.iterdir()] == ["ridge.zarr"]


def test_xarray_reads_it_and_a_new_one_replaces_it(tmp_path):
    for units in (6, 3):
        arrays, strings = influences(units, 9000)
        write_group(tmp_path / "ridge.zarr", arrays, strings=strings, attributes={})
        data = xr.open_zarr(tmp_path / "ridge.zarr", consolidated=False)
        np.testing.assert_array_equal(data["influence"], arrays["influence"][0])
        assert data["influence"].dims == ("unit", "example")
        assert data.coords["unit_name"].values.tolist() == strings["unit_name"][0]
    assert [p.name for p in tmp_path.iterdir()] == ["ridge.zarr"]


@pytest.mark.parametrize("file", ["influence/c/0/0", "influence/zarr.json", "unit_name/c/0", "zarr.json"])
@pytest.mark.parametrize("harm", ["delete", "truncate", "flip"])
def test_damage_is_named(tmp_path, file, harm):
    path = tmp_path / "ridge.zarr"
    arrays, strings = influences()
    write_group(path, arrays, strings=strings, attributes={})
    content = bytearray((path / file).read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "delete":
        (path / file).unlink()
    else:
        (path / file).write_bytes(content if harm == "flip" else content[: len(content) // 2])
    with pytest.raises(UserError, match=r"ridge\.zarr"):
        read_group(path)


def test_bad_input_is_refused_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "ridge.zarr"
    arrays, strings = influences()
    write_group(path, arrays, strings=strings, attributes={"n": 1})
    bad = [
        ({"../x": arrays["influence"]}, strings, {}),
        ({"a": (np.zeros(3), ("unit", "example"))}, {}, {}),
        ({"a": (np.zeros(3), ("unit",))}, strings, {}),
        ({"a": (np.array([None]), ("unit",))}, {}, {}),
        ({}, strings, {"coordinates": "mine"}),
    ]
    for values, names, attributes in bad:
        with pytest.raises(UserError):
            write_group(path, values, strings=names, attributes=attributes)
    assert read_group(path).attributes == {"n": 1}
    with pytest.raises(UserError, match="compute it first"):
        read_group(tmp_path / "absent.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_group(tmp_path / "file" / "ridge.zarr", arrays, strings=strings, attributes={})


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=4), st.lists(st.integers(0, 8999), max_size=5))
def test_a_part_is_that_part_of_the_whole(tmp_path_factory, units, examples):
    path = tmp_path_factory.mktemp("g") / "ridge.zarr"
    arrays, strings = influences(6, 9000)
    write_group(path, arrays, strings=strings, attributes={})
    at = {"unit": np.array(units, np.int64), "example": np.array(examples, np.int64)}
    read = read_group(path, only=lambda name: name != "kept", at=at).arrays
    assert read.keys() == arrays.keys() - {"kept"}
    np.testing.assert_array_equal(read["influence"], arrays["influence"][0][np.ix_(units, examples)])
    np.testing.assert_array_equal(read["intercept"], arrays["intercept"][0][examples])
    np.testing.assert_array_equal(read["penalty"], arrays["penalty"][0])


def test_an_entry_that_is_not_there_is_refused_and_a_damaged_chunk_found(tmp_path):
    arrays, strings = influences(6, 9000)
    write_group(tmp_path / "ridge.zarr", arrays, strings=strings, attributes={})
    with pytest.raises(UserError, match="example 9000 is asked for, but there are 9,000, numbered from 0 to 8999"):
        read_group(tmp_path / "ridge.zarr", at={"example": np.array([3, 9000])})
    chunk = tmp_path / "ridge.zarr" / "influence" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        read_group(tmp_path / "ridge.zarr", at={"example": np.array([3])})
    # What is in other chunks is still there.
    last = read_group(tmp_path / "ridge.zarr", at={"example": np.array([8999])}).arrays
    np.testing.assert_array_equal(last["influence"], arrays["influence"][0][:, [8999]])
