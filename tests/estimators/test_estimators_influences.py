import dataclasses

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jdt.checks import UserError
from jdt.estimators import Influences, Ranked, Ridge, influence_path, load_influences, save_influences
from jdt.store import Schema, Target, create_or_open, write_group

UNITS = ("beagle", "collie é", "tabby", "oak")
SHAPES = ("one number", "per unit", "per target", "per unit and target")


def influences(targets=("cat", "dog"), *, units=UNITS, seed=0, info=None, shape="per target"):
    rng = np.random.default_rng(seed)
    value, error = rng.normal(size=(2, len(units), len(targets))).astype(np.float32)
    degrees = dict(zip(SHAPES, ((1, 1), (len(units), 1), (1, len(targets)), value.shape), strict=True))
    return Influences(
        influence=value, standard_error=abs(error), z=value / abs(error),
        degrees_of_freedom=rng.uniform(3, 50, degrees[shape]).astype(np.float32),
        intercept=rng.normal(size=len(targets)).astype(np.float32),
        unit_names=units, target_names=tuple(targets), estimator="ridge", output="margin",
        num_models=40, info=info or {},
    )  # fmt: skip


def without_errors(found):
    return dataclasses.replace(found, standard_error=None, z=None, degrees_of_freedom=None, estimator="lasso")


class TestRankings:
    @pytest.mark.parametrize("harmful", [False, True])
    @pytest.mark.parametrize("target", ["dog", 1, -1])
    def test_a_target_ranks_by_its_own_column(self, target, harmful):
        found = influences()
        ranked = found.top(target, count=3, harmful=harmful)
        order = sorted(range(4), key=lambda u: found.influence[u, 1], reverse=not harmful)[:3]
        assert ranked == [
            Ranked(UNITS[u], *(float(v[u, 1]) for v in (found.influence, found.standard_error, found.z))) for u in order
        ]

    def test_no_target_ranks_by_the_mean_without_an_error(self):
        found = influences()
        ranked = found.top()
        assert [r.unit for r in ranked] == [UNITS[u] for u in np.argsort(-found.influence.mean(axis=1))]
        assert np.isnan([(r.standard_error, r.z) for r in ranked]).all()
        assert ranked[0].influence > found.top(harmful=True)[0].influence

    def test_without_standard_errors_they_rank_alike_with_nan_for_what_is_not_known(self):
        ranked, by_error = (f.top("dog") for f in (without_errors(influences()), influences()))
        assert [r[:2] for r in ranked] == [r[:2] for r in by_error]
        assert np.isnan([(r.standard_error, r.z) for r in ranked]).all()

    def test_ties_keep_the_order_of_the_units(self):
        found = dataclasses.replace(influences(), influence=np.zeros((4, 2), np.float32))
        assert [r.unit for r in found.top(0)] == list(UNITS)
        assert [r.unit for r in found.top(0, harmful=True)] == list(UNITS)

    def test_unknown_targets_are_refused(self):
        with pytest.raises(UserError, match="unknown target 'dgo'; nearest: dog"):
            influences().top("dgo")
        for target in (2, -3):
            with pytest.raises(UserError, match=f"target is {target}, but there are 2 targets"):
                influences().top(target)


class TestIntervals:
    @pytest.mark.parametrize("shape", SHAPES)
    @settings(max_examples=10, deadline=None)
    @given(st.floats(0.01, 0.999))
    def test_they_are_students_around_the_influence(self, shape, level):
        found = influences(shape=shape)
        low, high = found.interval(level)
        degrees = found.degrees_of_freedom + np.zeros((4, 2))
        for u in range(4):
            reach = stats.t(df=degrees[u]).ppf(0.5 + level / 2) * found.standard_error[u]
            np.testing.assert_allclose(high[u], found.influence[u] + reach, rtol=1e-5)
            np.testing.assert_allclose(low[u], found.influence[u] - reach, rtol=1e-5)

    @pytest.mark.parametrize("level", [0.0, 1.0, 1.95])
    def test_levels_lie_between_0_and_1(self, level):
        with pytest.raises(UserError, match=f"level is {level}, .*strictly between 0 and 1"):
            influences().interval(level)

    def test_without_standard_errors_they_are_refused_with_a_remedy(self):
        with pytest.raises(UserError, match=r"estimator 'lasso' gives no standard errors.*use estimator=\"ridge\""):
            without_errors(influences()).interval()


class TestExport:
    @pytest.mark.parametrize("name", ["found.npz", "found", "fraction_0.5"])
    def test_npz_is_read_without_pickle_under_the_name_asked_for(self, tmp_path, name):
        found = influences()
        path = found.to_npz(tmp_path / name)
        assert path.name == (name if name.endswith(".npz") else f"{name}.npz")
        with np.load(path, allow_pickle=False) as arrays:
            for field in ("influence", "standard_error", "z", "degrees_of_freedom", "intercept"):
                np.testing.assert_array_equal(arrays[field], getattr(found, field))
            assert (tuple(arrays["unit"]), tuple(arrays["target"])) == (UNITS, ("cat", "dog"))

    def test_xarray_has_names_for_rows_and_columns(self):
        found = influences()
        data = found.to_xarray()
        assert float(data["influence"].sel(unit="tabby", target="dog")) == found.influence[2, 1]
        for name in ("standard_error", "z", "degrees_of_freedom"):
            assert data[name].dims == ("unit", "target")
        assert (data["degrees_of_freedom"] == found.degrees_of_freedom).all()
        assert data["intercept"].dims == ("target",)
        assert data.coords["unit"].values.tolist() == list(UNITS)
        assert data.attrs == {"estimator": "ridge", "output": "margin", "num_models": 40}

    def test_what_an_estimator_does_not_give_is_left_out(self, tmp_path):
        found = without_errors(influences())
        assert set(found.to_xarray().data_vars) == {"influence", "intercept"}
        with np.load(found.to_npz(tmp_path / "lasso"), allow_pickle=False) as arrays:
            assert set(arrays) == {"influence", "intercept", "unit", "target"}


CLASSES = ("cat", "dog", "ship")
COLUMNS = {"example": tuple("01234"), "class": CLASSES, "task": ("pets",)}


def levels(seed=0, *, shape="per target"):
    found = {}
    for i, (level, targets) in enumerate(COLUMNS.items()):
        info = {"relative": True, "penalty": np.arange(len(targets), dtype=np.float32) + i}
        found[level] = influences(targets, seed=seed + i, info=info, shape=shape)
    return found


def save(path, found):
    save_influences(path, found, class_names=CLASSES, attributes={"target": "pets", "left_out": [3]})


def assert_equal(read, saved):
    for field in dataclasses.fields(Influences):
        if field.name != "info":
            np.testing.assert_array_equal(getattr(read, field.name), getattr(saved, field.name), err_msg=field.name)
    for name, value in saved.info.items():
        np.testing.assert_array_equal(read.info[name], value, err_msg=name)


class TestSaved:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("level", COLUMNS)
    def test_every_level_is_read_as_it_was_saved(self, tmp_path, level, shape):
        found = levels(shape=shape)
        save(tmp_path / "ridge.zarr", found)
        read = load_influences(tmp_path / "ridge.zarr", level=level)
        assert_equal(read, found[level])
        assert (read.info["target"], read.info["left_out"]) == ("pets", [3])
        assert not [name for name in read.info if name.startswith(("class_", "task_"))]

    def test_what_an_estimator_does_not_give_is_none_when_read_again(self, tmp_path):
        found = {level: without_errors(one) for level, one in levels().items()}
        save(tmp_path / "lasso.zarr", found)
        for level, saved in found.items():
            assert_equal(load_influences(tmp_path / "lasso.zarr", level=level), saved)

    def test_degrees_of_freedom_of_one_number_a_unit_are_read_as_such(self, tmp_path):
        one = levels(shape="per unit")["example"]
        arrays = {name: (getattr(one, name), ("unit", "example")) for name in ("influence", "standard_error", "z")}
        arrays["degrees_of_freedom"] = (one.degrees_of_freedom[:, 0], ("unit",))
        arrays["intercept"] = (one.intercept, ("example",))
        strings = {"unit_name": (UNITS, "unit"), "class_name": (CLASSES, "class")}
        attributes = {"estimator": "ridge", "output": "margin", "num_models": 40}
        write_group(tmp_path / "ridge.zarr", arrays, strings=strings, attributes=attributes)
        read = load_influences(tmp_path / "ridge.zarr")
        np.testing.assert_array_equal(read.interval(), one.interval())

    def test_what_ridge_reports_is_kept(self, tmp_path):
        rng = np.random.default_rng(0)
        masks = rng.random((30, 4)) < 0.5
        found = {
            level: dataclasses.replace(Ridge().fit(masks, rng.normal(size=(30, len(names)))), target_names=names)
            for level, names in COLUMNS.items()
        }
        save(tmp_path / "ridge.zarr", found)
        for level, saved in found.items():
            assert_equal(load_influences(tmp_path / "ridge.zarr", level=level), saved)

    def test_as_many_targets_as_units_mix_nothing_up(self, tmp_path):
        found = {level: influences(tuple("abcd"[:size]), seed=size) for level, size in (("example", 4), ("class", 3))}
        save(tmp_path / "ridge.zarr", {"example": found["example"], "class": found["class"]})
        read = load_influences(tmp_path / "ridge.zarr")
        np.testing.assert_array_equal(read.degrees_of_freedom, found["example"].degrees_of_freedom)
        assert "degrees_of_freedom" not in read.info

    def test_saving_again_replaces(self, tmp_path):
        save(tmp_path / "ridge.zarr", levels(0))
        save(tmp_path / "ridge.zarr", levels(7))
        assert_equal(load_influences(tmp_path / "ridge.zarr"), levels(7)["example"])

    def test_a_level_that_was_not_saved_is_named_with_those_that_were(self, tmp_path):
        save(tmp_path / "ridge.zarr", {"example": levels()["example"]})
        with pytest.raises(UserError, match=r"ridge\.zarr has no influences at level 'class'; it has: example"):
            load_influences(tmp_path / "ridge.zarr", level="class")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"lasso\.zarr is not there.*compute it first"):
            load_influences(tmp_path / "lasso.zarr")

    def test_an_unknown_level_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # As in users' programs.
        with pytest.raises(UserError, match="unknown level 'unit'; known: example, class, task"):
            load_influences(tmp_path / "ridge.zarr", level="unit")


def run_with(path, *targets):
    made = {name: Target(np.zeros(5, np.int32), CLASSES) for name in targets}
    schema = Schema(4, 2, UNITS, made, ("fixed", "full"))
    create_or_open(path, config={"seed": 0}, provenance={"output": "margin"}, schema=schema)
    return path


class TestSavedInARun:
    def test_a_run_with_one_target_needs_no_more_than_its_path(self, tmp_path):
        run, found = run_with(tmp_path / "demo", "pets"), levels()
        save(influence_path(run, "pets", "fixed", "margin", "ridge"), found)
        assert_equal(load_influences(run), found["example"])
        assert_equal(
            load_influences(str(run), target="pets", mode="fixed", output="margin", level="task"), found["task"]
        )

    def test_what_is_missing_is_listed_with_what_is_there(self, tmp_path):
        run = run_with(tmp_path / "demo", "pets")
        with pytest.raises(UserError, match=r"no influences pets/fixed/margin/ridge; none were estimated yet: finish"):
            load_influences(run)
        save(influence_path(run, "pets", "fixed", "margin", "difference"), levels())
        save(influence_path(run, "pets", "full", "confidence", "ridge"), levels())
        with pytest.raises(
            UserError,
            match=r"no influences pets/fixed/margin/ridge; it has: pets/fixed/margin/difference, pets/full/conf",
        ):
            load_influences(run)
        load_influences(run, mode="full", output="confidence")

    def test_several_targets_have_to_be_told_apart(self, tmp_path):
        run, found = run_with(tmp_path / "demo", "pets", "food"), levels()
        save(influence_path(run, "food", "fixed", "margin", "ridge"), found)
        with pytest.raises(UserError, match="has 2 targets: pass target= one of pets, food"):
            load_influences(run)
        assert_equal(load_influences(run, target="food"), found["example"])

    def test_a_folder_that_is_no_run_is_named(self, tmp_path):
        with pytest.raises(UserError, match="is not a run directory"):
            load_influences(tmp_path)
