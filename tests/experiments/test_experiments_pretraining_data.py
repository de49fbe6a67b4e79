"""Studies of pre-training data as a user makes them, on a small study of the digits."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jdt
from experiments import (
    choose_source,
    pretraining_data,
    pretraining_measures,
    pretraining_reuse,
    pretraining_setup,
    pretraining_worth,
)

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    recompute = importlib.import_module("recompute_pretraining")
    formulas = importlib.import_module("pretraining_formulas")

RESAMPLES = 100
SHORT = jdt.train.Recipe(epochs=0.5, batch_size=64, learning_rate=0.1, warmup_epochs=0.1)


def config(out, **changes):
    return dataclasses.replace(
        pretraining_data.PRESETS["smoke"],
        **{
            "out": out, "model": "tiny_network:Linear", "model_args": (), "devices": 1, "plan": "matmul",
            "block_size": 2, "sources": ("near=classes:upright *", "scrambled=classes:scrambled *"), "twin": "none",
            "source_size": 128, "methods": ("supervised",), "control": False,
            "target_split": "test[:200]", "target_test_split": "test[200:300]", "shots": (2,), "at_shots": 2,
            "rules": ("LP-FT", "prototype"), "rates": (0.01, 0.1), "method_sources": (),
            "recipe": SHORT,
            "full": jdt.transfer.FullNetwork(jdt.train.Recipe(epochs=1, batch_size=16)),
            **changes,
        },
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cheap():
    """Few resamples, and no pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        for module in (pretraining_measures, pretraining_worth):
            patch.setattr(module, "RESAMPLES", RESAMPLES)
        patch.setattr(formulas, "CLAIMED", RESAMPLES)
        patch.setattr(jdt.report, "add_pretraining", lambda run, *_, **__: run / "report.html")
        yield


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A whole study."""
    asked = config(tmp_path_factory.mktemp("pretraining") / "run", save_models=True)
    pretraining_data.main(asked)
    return asked


def test_a_study_is_measured_on_what_it_stored(studied, capsys):
    found = json.loads((studied.out / "pretraining.json").read_text())
    assert found["methods"] == {"supervised": ["near", "scrambled", "scratch"]}
    run = jdt.open_run(studied.out)
    names = [f"jdt_digits{draw}{view}" for draw in ("@2shot.0", "") for view in ("", "+validation")]
    assert list(run.targets) == names
    assert [one["modes"] for one in found["cells"]] == [["LP-FT@0.01", "LP-FT@0.1"], ["prototype"]] * 2
    one = next(one for one in found["cells"] if (one["shots"], one["rule"]) == (2, "LP-FT"))
    right = run.outputs("jdt_digits@2shot.0", "LP-FT@0.1", "prediction") == run.target("jdt_digits").labels
    np.testing.assert_allclose(
        np.array(one["test"])[1, :, :, 0], right.mean(axis=1).reshape(2, 3).T, rtol=1e-6
    )  # Models stand seed by seed.
    assert recompute.main([str(studied.out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("agree, 0 do not.")
    assert [one["name"] for one in found["verdicts"] if one["name"].startswith("D0") and one["passed"]]


def test_what_a_kill_left_undone_is_trained_to_the_same_bytes_and_nothing_else(studied, tmp_path, capsys):
    out = shutil.copytree(studied.out, tmp_path / "run")
    found = (out / "pretraining.json").read_bytes()
    (out / "blocks" / "000001.json").unlink()
    for name in ("pretraining.json", "summary.json"):
        (out / name).unlink()
    kept = (out / "blocks" / "000000.json").read_bytes()
    pretraining_data.main(dataclasses.replace(studied, out=out))
    assert (out / "pretraining.json").read_bytes() == found
    assert (out / "blocks" / "000000.json").read_bytes() == kept
    capsys.readouterr()
    pretraining_data.main(dataclasses.replace(studied, out=out))
    assert capsys.readouterr().out.count("nothing to train") == 1


def test_source_models_of_another_study_are_transferred_and_none_is_trained(studied, tmp_path, monkeypatch):
    monkeypatch.setattr(jdt.pipeline.blocks, "train", None)
    changes = {"shots": (3,), "at_shots": 3, "draws": 2, "rules": ("prototype", "LP"), "block_size": 4}
    asked = config(tmp_path / "run", models_from=studied.out, **changes)
    pretraining_data.main(asked)
    before, after = jdt.open_run(studied.out), jdt.open_run(asked.out)
    for name in ("mask", "source/loss", "source/accuracy", "targets/jdt_digits/prototype/margin"):
        np.testing.assert_array_equal(before.column(name), after.column(name))
    assert "jdt_digits@3shot.1" in after.targets
    assert {record["kept_in"] for record in after.records()} == {jdt.config.fingerprint(before.config)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": dataclasses.replace(SHORT, learning_rate=0.2)}, "were made with recipe .*0.1.*0.2.* is asked for"),
        ({"source_size": 100}, "saw other images .*--source-size, --nonce or --seed"),
        ({"seeds": 3}, "9 models are asked for, but .* lacks model 6: pass fewer --seeds"),
        ({"methods": ("supervised", "simclr")}, "has no models of method simclr: leave it out"),
    ],
)
def test_source_models_that_are_others_are_refused(studied, tmp_path, changes, message):
    with pytest.raises(jdt.UserError, match=message):
        pretraining_setup.load_study(config(tmp_path / "run", models_from=studied.out, **changes))


@pytest.mark.parametrize("way", ["../run", "simclr", ".."])
def test_source_models_are_not_taken_from_where_the_study_is_written(studied, way):
    out = studied.out / way
    with pytest.raises(jdt.UserError, match="same folder, or one is inside the other: pass another --out"):
        pretraining_setup.load_study(config(out, models_from=studied.out, overwrite=True))


def test_source_models_of_another_pool_are_others(studied, tmp_path):
    asked = config(tmp_path / "run", models_from=studied.out)
    study = pretraining_setup.load_study(asked)
    block = study.blocks[0]
    described = {**pretraining_setup.identity(asked, study, block), "pool_size": 150}
    with pytest.raises(jdt.UserError, match=r"pool_size None, and 150 is asked for: pass the same .of --memory-budget"):
        pretraining_reuse.require_same_sources(jdt.open_run(studied.out), described, block.task)


def test_a_record_without_randomness_is_damaged(studied):
    run = jdt.open_run(studied.out)
    records = tuple({k: v for k, v in record.items() if k != "randomness_ids"} for record in run.records())
    task = pretraining_setup.load_study(studied).blocks[0].task
    with pytest.raises(
        jdt.UserError, match=r"damaged: the record of block 0 lacks the randomness .*make the run again"
    ):
        jdt.pipeline.source_models.kept_models(
            dataclasses.replace(run, _records=records), range(2), task.network, task.source.image_shape
        )


def test_a_seed_more_of_kept_models_costs_their_training_too(studied, tmp_path):
    asked = config(tmp_path / "run", models_from=studied.out)
    study = pretraining_setup.load_study(asked)
    block = dataclasses.replace(study.blocks[0], out=studied.out)  # As if transfer alone had taken as long.
    taken = dataclasses.replace(study, blocks=(block,))
    alone = dataclasses.replace(
        taken, blocks=(dataclasses.replace(block, task=dataclasses.replace(block.task, kept=None)),)
    )
    cost, before = (choose_source.cost_of(asked, one) for one in (taken, alone))
    assert cost.models == before.models
    assert cost.seconds == pytest.approx(2 * before.seconds)


def test_sources_that_are_cut_to_equal_size_are_said_to_be(tmp_path):
    study = pretraining_setup.load_study(config(tmp_path / "run"))
    assert study.sources.notes[0] == "near was cut from 700 images to 128, for equal sizes."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source_size": 5000},
            "source 'near' has 700 images, but 5,000 are asked for: pass --source-size 700 or less",
        ),
        ({"shots": (2, 50)}, "shots is 50, but class .* has .* training images"),
        (
            {"rules": ("LP",), "penalties": (1.0,)},
            "--penalties are 1.0, but are a grid to choose from: pass two or more",
        ),
        ({"rates": (0.1, 0.1)}, "--rates are 0.1 0.1, but are a grid to choose from"),
        (
            {"methods": ("supervised", "clip"), "captions": "label"},
            "feature 'label' of jdt_digits_source is ClassLabel, not one text",
        ),
        ({"target_split": "test[:4]"}, "class .* training image|too few"),
        ({"sources": ("near=all",)}, "--sources are near=all, but sources are compared: name two or more"),
        ({"rules": ("LP", "zero-shot")}, "--rules zero-shot needs a text tower"),
        ({"captions": "text"}, "--captions are read by CLIP alone"),
        ({"far": ("fra",)}, "source in --far"),
        ({"equivalents": ("near:scrambled",)}, "the family of near, which has one size"),
        ({"method_sources": ("supervised:nera",)}, "source in --method-sources"),
        ({"shots": (5,)}, "compared, is 2, but --shots are 5: pass --at-shots 5"),
        ({"fraction": 0.25}, "--fraction would do nothing in a study of pre-training data"),
        ({"validation": 0.01}, "too few to hold 1% out for validation"),
        (
            {"sources": ("near=classes:upright *", "scrambled=pixels", "half=near|size:0.5", "half2=near|size:0.501")},
            "'half' and 'half2' are the same images",
        ),
        ({"rates": (0.1, 0.2, 0.1000000001)}, "--rates are .* each once"),
        ({"rates": (0.1, float("inf"))}, "--rates are 0.1 inf, but are a grid"),
        ({"methods": ("supervised", "clip"), "rules": ("zero-shot",)}, "--rules are zero-shot alone"),
        ({"method_sources": ("supervised:near",)}, "supervised without scrambled, but the first"),
        ({"equivalents": ("mix:half:4",)}, "unknown source in --equivalents 'mix'.* --preset own"),
        ({"full": jdt.transfer.FullNetwork(start="probe")}, "--full.start probe would do nothing"),
        (
            {
                "methods": ("supervised", "clip"),
                "rules": ("LP-FT", "zero-shot"),
                "near": "pixels",
                "far": (),
                "sources": ("near=classes:upright *", "pixels=pixels"),
            },
            "has no image of those of 'pixels'",
        ),
        ({"target_test_split": "test[:300]"}, "[Oo]verlap|same image|identical|share"),
    ],
)
def test_what_makes_no_study_is_refused_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(jdt.UserError, match=message) as refused:
        pretraining_data.main(config(tmp_path / "run", **changes))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
