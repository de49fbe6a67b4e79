import dataclasses
import json
import pathlib

import flax.linen as nn
import flax.serialization
import jax
import numpy as np
import pytest

import jdt
from experiments import bias_setup, bias_transfer


class Linear(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes, name="head")(features), features


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Loads a study whose training images are there once more, as they are for recipes that cut them anew."""
    for name, prefix in (("source", "upright "), ("target", "")):
        halves = {half: [f"{prefix}{digit}" for digit in own] for half, own in (("low", "01234"), ("high", "56789"))}
        (tmp_path / name).write_text(json.dumps(halves))
    make_task = bias_setup.make_task

    def with_streams(config):
        task = make_task(config)
        return dataclasses.replace(task, targets=tuple(dataclasses.replace(t, streamed=t.train) for t in task.targets))

    monkeypatch.setattr(bias_setup, "make_task", with_streams)
    shared = {"out": tmp_path, "model": f"{__name__}:Linear", "devices": 1}
    return lambda **flags: bias_setup.load_study(bias_setup.Config(**shared, **flags))


def same(first, second):
    for one, other in ((first.labels, second.labels), (first.stamps.of_example, second.stamps.of_example)):
        np.testing.assert_array_equal(one, other)
    return first.fingerprint == second.fingerprint


def test_images_that_are_cut_anew_carry_the_pattern_too(load):
    study = load(debias=(0.25,), target_fractions=(0.5,), cross=True)
    debiased = [target for target, variant in zip(study.task.targets, study.variants, strict=True) if variant.debias]
    assert [len(target.train) for target in debiased] == [100, 50]
    for target in debiased:
        assert (np.asarray(target.train.stamps.of_example) >= 0).sum() == len(target.train) // 4
    assert same(debiased[0].streamed, debiased[0].train)


def test_compositions_are_those_of_images_that_are_cut_anew(load, tmp_path):
    study = load(
        group="planted", source_groups=tmp_path / "source", target_groups=tmp_path / "target", compositions=(0.5, 1.0)
    )
    for target, share in zip(study.task.targets, (0.5, 1.0), strict=True):
        assert (np.asarray(target.train.stamps.of_example) >= 0).mean() == pytest.approx(share, abs=0.03)
        assert same(target.streamed, target.train)
        assert target.test.class_names == ("low", "high")


def test_skew_needs_a_label_of_two(load, tmp_path):
    with pytest.raises(jdt.UserError, match="jdt_digits has 10 classes, but skew is that of a label of two"):
        load(group="planted", source_groups=tmp_path / "source")


def test_a_sham_is_one_whatever_it_is_called(load):
    study = load(sham=("gaussian", "corner=square:bottom-left", "shuffled"))
    assert (study.triggers, study.shams) == (("square",), ("gaussian", "corner", "shuffled"))
    assert load().shams == ("sham",)


@pytest.mark.parametrize("trigger", ["square", "tint:255,0,0:0.3", "gaussian:0.1", "tint:255,255,255:0.5"])
def test_the_default_sham_is_no_trigger(load, trigger):
    study = load(trigger=(trigger,))
    (bias,), (sham,) = ([study.stamps[name] for name in names] for names in (study.triggers, study.shams))
    assert (bias.gain != sham.gain).any() or (bias.shift != sham.shift).any()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"trigger": ("tint:255,0,0",), "sham": ("shuffled",)}, "the sham 'shuffled' would change images as .* 'tint'"),
        ({"sham": ("gaussian", "again=square")}, "the sham 'again' would change images as the trigger 'square'"),
        ({"trigger": ("square", "other=square:bottom-right:0,0,255")}, "the sham 'sham' .* 'other'"),
        ({"trigger": ("square", "sham=gaussian")}, "patterns are called square, sham, sham"),
    ],
)
def test_a_sham_that_is_a_trigger_is_refused(load, flags, words):
    with pytest.raises(jdt.UserError, match=words):
        load(**flags)


def test_a_model_that_is_there_has_no_source_whose_flags_could_be_wrong(load, tmp_path):
    variables = jdt.models.make(f"{__name__}:Linear", num_classes=7).init(jax.random.key(3), (8, 8, 1))
    path = tmp_path / "mine.msgpack"
    path.write_bytes(flax.serialization.to_bytes({"params": jax.tree.map(np.asarray, variables.params)}))
    study = load(
        source_checkpoint=path, trigger_classes=("upright 3",), source_per_group=5, source_split="none",
        target_split="train[:50%]", target_test_split="test[:20]",
    )  # fmt: skip
    assert (study.triggers, study.arms[0], list(study.stamps)) == ((), "given", ["square"])
    assert study.base.source.fingerprint == study.base.targets[0].train.fingerprint
    config = bias_setup.Config(out=tmp_path, source_checkpoint=path, label="a", target_label="b")
    given = bias_setup.with_given_models(config)
    assert given.label == "b"
    assert bias_setup.with_given_models(given) == given


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"num_models": 3}, "num-models is 3, which is odd"),
        ({"num_models": 1}, "num-models is 1"),
        ({"estimators": ("rigde",)}, "unknown estimator 'rigde'"),
        ({"drop": 16}, "--drop is 16, but as many random units .* of 30 units 0 to 15 can be"),
        ({"drop": -1}, "--drop is -1"),
        ({"trigger_units": 16}, r"--drop is 16 \(as many as carry the pattern\)"),
        ({"nonce": -1}, "nonce is -1, but it must be at least 0"),
        ({"trigger_seed": -1}, "trigger-seed is -1, but it must be at least 0"),
        ({"nonce": 3, "trigger_classes": ("upright 3",)}, "pass --trigger-classes with nothing behind it"),
    ],
)
def test_what_would_fail_after_hours_fails_at_once(load, flags, words):
    with pytest.raises(jdt.UserError, match=words):
        load(**flags)


def test_influences_on_single_images_that_fit_no_memory_are_refused_at_once(load, monkeypatch):
    monkeypatch.setattr(bias_setup.influence_setup, "ARRAYS_AT_ONCE", 10**9)
    with pytest.raises(jdt.UserError, match="pass fewer test images"):
        load()
    assert load(num_models=0).triggers == ("square",)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in bias_setup.IGNORED.items() for name in names]
)
def test_flags_of_another_kind_of_study_are_refused(load, kind, name):
    values = {
        "trigger_probability": 0.5, "nonce": 1, "stencils": pathlib.Path("none"), "cross": True, "shots": (5,),
        "phis": (0.0, 0.5), "compositions": (0.5,), "target_group": "a",
    }  # fmt: skip
    flags = {name: values.get(name, ("square",))}
    with pytest.raises(jdt.UserError, match=f"--{name.replace('_', '-')} would do nothing in a study of a {kind}"):
        load(**flags, group="planted" if kind == "group" else None)


@pytest.mark.parametrize("preset", bias_transfer.PRESETS.values(), ids=list(bias_transfer.PRESETS))
def test_presets_have_no_flag_that_does_nothing(preset):
    bias_setup._require_used(preset)


def test_classes_that_carry_the_pattern_are_named_or_numbered(load):
    study = load(trigger_classes=("3-5", "upright 4", "upright 9"))
    marked = np.unique(np.asarray(study.base.source.labels)[study.carriers])
    assert marked.tolist() == [3, 4, 5, study.base.source.class_names.index("upright 9")]
    (dogs,) = bias_transfer.PRESETS["paper"].trigger_classes
    assert len(bias_setup._numbered([dogs], [f"n{number}" for number in range(1000)])) == 118
    assert bias_setup._numbered(["0-1"], ["a", "b", "0-1"]) == (2,)
    for text in ("5-3", "0-30", "99999999-1"):
        with pytest.raises(jdt.UserError, match=f"trigger classes {text} are not there: pass two of 0 to 29"):
            load(trigger_classes=(text,))
