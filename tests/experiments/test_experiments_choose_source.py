"""Choosing a source from the command's flags to its page, and letting the run grow to be surer."""

import dataclasses
import json

import numpy as np
import pytest

import jdt
from experiments import choose_source, pretraining_data
from experiments.choose_source import completed
from experiments.pretraining_setup import load_study

TINY = dataclasses.replace(
    choose_source.PRESETS["smoke"],
    sources=("upright=classes:upright *", "pixels=pixels"),
    source_size=60,
    shots=(2,),
    rules=("prototype",),
    target_test_split="test[:120]",
    model="tests.experiments.tiny_network:Linear",
    recipe=jdt.train.Recipe(epochs=2, batch_size=20, learning_rate=0.1, warmup_epochs=0.1),
    plan="native",
    precision="float32",
    devices=1,
    block_size=3,
)


def test_a_source_is_chosen_and_more_seeds_train_the_new_models_alone(tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run")
    choose_source.main(config)
    before = jdt.open_run(config.out)
    found = json.loads((config.out / "choice.json").read_text())
    assert [(one["target"], one["shots"]) for one in found["choices"]] == [("jdt_digits", 2), ("jdt_digits", None)]
    assert {one["source"] for one in found["choices"][0]["candidates"]} == {"upright", "pixels"}
    cost = found["cost_of_a_seed"]
    seconds = sum(record["seconds"] for record in before.records())
    assert cost["models"] == 3
    assert cost["seconds"] == pytest.approx(seconds / 2)
    name = found["choices"][0]["take"]
    assert f"take {name}: " in (config.out / "report.html").read_text()

    pretraining_data.main(completed(dataclasses.replace(config, seeds=3)), lambda *_: config.out)
    after = jdt.open_run(config.out)
    assert (before.num_models, after.num_models) == (6, 9)
    assert after.config == before.config
    assert after.records()[:2] == before.records()
    was, now = (run.outputs("jdt_digits@2shot.0", "prototype", "prediction") for run in (before, after))
    assert np.array_equal(was, now[:6])
    with pytest.raises(jdt.UserError, match="holds 3 seeds of every source, and --seeds is 2"):
        choose_source.main(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": ("upright=classes:upright *",)}, "name two or more"),
        ({"target": ("no_such_target",)}, "no_such_target"),
        ({"shots": (50,)}, "50"),
        ({"source_size": 100_000}, "100,000 are asked for"),
        ({"shots": ()}, "--shots"),
        ({"far": ("pixels",), "control": True}, "--far, --control would cost time and not be shown"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(changes, words):
    with pytest.raises(jdt.UserError) as error:
        load_study(completed(dataclasses.replace(TINY, **changes)))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_noisy_sources_grow_within_their_room_and_are_what_they_were():
    noisy = dataclasses.replace(TINY, sources=("upright=classes:upright *", "noisy=upright|noise:0.5"), room=3)
    few, more = (load_study(completed(dataclasses.replace(noisy, seeds=seeds))).blocks[0] for seeds in (2, 3))
    assert few.subsets == more.subsets
    assert few.task.units.names == more.task.units.names
    assert few.task.source.fingerprint == more.task.source.fingerprint
    first, again = (jdt.masks.sample(one.task.design, np.arange(6), len(one.task.units)) for one in (few, more))
    assert np.array_equal(first, again)
    noisy_rows = jdt.masks.sample(more.task.design, np.arange(9), len(more.task.units))[1::3]
    assert more.arms[1] == "noisy"
    assert len(np.unique(noisy_rows, axis=0)) == 3  # Every seed has wrong labels of its own.
    larger = load_study(completed(dataclasses.replace(noisy, room=4))).blocks[0]
    assert larger.subsets != few.subsets
