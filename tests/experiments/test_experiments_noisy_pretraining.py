"""Studies of noisy pre-training as a user makes them, on a small study of the digits."""

import dataclasses
import json
import shutil
import types

import flax.linen as nn
import jax
import numpy as np
import pytest

import jdt
from experiments import noise_bars, noise_selection, noise_setup, noisy_pretraining
from jdt.store.schema import Layout


class Linear(nn.Module):
    """Compiles in no time."""

    width: int = 16

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.relu(nn.Dense(self.width, name="dense")(images.reshape(len(images), -1)))


def config(out, **changes):
    return dataclasses.replace(
        noisy_pretraining.PRESETS["smoke"],
        **{
            "out": out, "model": f"{__name__}:Linear", "devices": 1, "plan": "matmul", "shifts": ("inversion",),
            "target_test_split": "test[:100]", "num_models": 0, "ablation": False, "target_fractions": (),
            "selection_seeds": 0, "block_size": 2,
            "tuning": jdt.transfer.Tuning(flip=False, epochs=1, num_views=0), **changes,
        },
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Rates are given to models at random a few times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_bars, "RELABELLINGS", 20)
        yield


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A whole study with its page, on which nothing is drawn: that takes time."""
    asked = config(tmp_path_factory.mktemp("noise") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jdt.report.noise.noise_pictures", lambda _: iter(()))
        noisy_pretraining.main(asked)
    return asked


@pytest.fixture
def no_page(monkeypatch):
    """Nobody reads the page."""
    monkeypatch.setattr(jdt.report, "add_noise", lambda *_, **__: "no page")


def files(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file() and "blocks" in path.parts}


def test_a_study_is_measured_on_what_it_stored_and_repeated_without_training(studied, capsys, no_page):
    found, run = json.loads((studied.out / "noise.json").read_text()), jdt.open_run(studied.out)
    names = [f"jdt_digits{part}{view}" for part in ("", "@shuffled") for view in ("", "+inversion")]
    assert list(run.targets) == names
    assert found["arms"] == ["0%", "30%", "scratch"]
    assert len(found["accuracies"]) == 4 * 4
    for one in found["accuracies"]:
        name = f"{one['variant']}+{one['view']}" if one["view"] else one["variant"]
        right = run.outputs(name, one["mode"], "prediction") == run.target(name).labels
        np.testing.assert_allclose(np.array(one["values"]), right.mean(axis=1).reshape(2, 3).T, rtol=1e-6)
    assert np.isnan(run.column("source/loss")).tolist() == [False, False, True] * 2
    assert {one["name"].partition(",")[0] for one in found["verdicts"]} == {
        "C0", "C3", "C4", "C6", "C7", "C8", "models without noise are sound",
    }  # fmt: skip
    assert "Noisy pre-training" in (studied.out / "report.html").read_text()
    before = files(studied.out)
    assert len(before) == 3
    capsys.readouterr()
    noisy_pretraining.main(studied)
    assert capsys.readouterr().out.count("nothing to train") == 1
    assert files(studied.out) == before
    assert json.loads((studied.out / "noise.json").read_text()) == found


def test_a_block_that_was_lost_is_trained_to_the_same_bytes(studied, tmp_path, no_page):
    out = shutil.copytree(studied.out, tmp_path / "run")
    found = (out / "noise.json").read_bytes()
    (out / "blocks" / "000001.json").unlink()
    noisy_pretraining.main(dataclasses.replace(studied, out=out))
    assert (out / "noise.json").read_bytes() == found


def test_stored_labels_are_those_that_were_trained_on(studied):
    stored = jdt.store.read_group(studied.out / noisy_pretraining.LABELS).arrays
    study, masks = noise_setup.load_study(studied), jdt.open_run(studied.out).mask()
    pool, example = np.asarray(study.noise.data.labels), study.noise.example
    true = np.asarray(study.base.source.labels)
    np.testing.assert_array_equal(stored["true"], true)
    members = study.task.units.members(masks)
    assert not members[2::3].any()  # From scratch.
    for row, (rate, seed) in enumerate(zip(stored["rate"], stored["seed"], strict=True)):
        mine = np.flatnonzero(members[3 * seed + study.rates.index(rate)])
        np.testing.assert_array_equal(example[mine], np.arange(len(true)))  # Every example once, in order.
        np.testing.assert_array_equal(pool[mine], stored["given"][row])
        np.testing.assert_array_equal(stored["is_wrong"][row], stored["given"][row] != true)
        assert stored["is_wrong"][row].sum() == round(rate * len(true))


def test_models_of_one_seed_start_alike_and_see_the_same_examples_at_the_same_steps(tmp_path):
    study = noise_setup.load_study(config(tmp_path, rates=(0.0, 0.1, 0.3)))
    arms = len(study.arms)
    members = study.task.units.members(study.task.design.masks)
    ids = np.asarray(study.task.design.randomness_ids)
    trained = [row for row in range(len(members)) if row % arms != arms - 1]
    batches = jdt.train.batches.batch_indices(
        np.int32(study.task.design.seed), ids[trained], members[trained], np.int32(0), np.int32(0),
        study.task.source.version_of, num_steps=70, batch_size=64, num_passes=4,
    )  # fmt: skip
    seen = study.noise.example[np.asarray(batches)].reshape(70, 2, 3, 64)
    labels = np.asarray(study.noise.data.labels)[np.asarray(batches)].reshape(70, 2, 3, 64)
    assert (seen == seen[:, :, :1]).all()
    assert (seen[:, 0] != seen[:, 1]).any()
    changed = (labels != labels[:, :, :1]).mean(axis=(0, 1, 3))
    np.testing.assert_allclose(changed, [0, 0.1, 0.3], atol=0.02)
    start = jdt.train.initial_variables(study.task.ensemble, study.task.design.seed, ids)
    leaves = [np.asarray(leaf).reshape(2, arms, -1) for leaf in jax.tree.leaves(start.params)]
    assert all((leaf == leaf[:, :1]).all() for leaf in leaves)
    assert any((leaf[0] != leaf[1]).any() for leaf in leaves)


def test_without_a_wrong_label_an_arm_is_a_plain_run(tmp_path):
    """A rate that is too small to change a label: two equal arms, and the same as models of the source as it is."""
    asked = config(tmp_path, rates=(0.0, 1e-6), control=False, shifts=())
    study = noise_setup.load_study(asked)
    assert len(study.noise.data) == len(study.base.source)
    tuners = {"linear": study.task.tuners["linear"]}
    noisy = dataclasses.replace(study.task, modes=("linear",), tuners=tuners, block_size=2)
    plain = dataclasses.replace(
        noisy, source=study.base.source, units=study.base.units, num_models=2, block_size=2, baseline_models=0,
        design=jdt.masks.Listed(np.ones((2, len(study.base.units)), bool), np.arange(2), asked.seed),
        pool_size=study.base.pool_size,
    )  # fmt: skip
    columns = {}
    for name, task in (("noisy", noisy), ("plain", plain)):
        writer = jdt.store.create_or_open(tmp_path / name, config={}, provenance={}, schema=task.schema())
        jdt.pipeline.train_missing_blocks(task, writer)
        run = jdt.open_run(tmp_path / name)
        places = ("source/loss", *(f"targets/jdt_digits/linear/{one}" for one in ("margin", "loss", "accuracy")))
        columns[name] = {place: run.column(place) for place in places}
    for place, values in columns["noisy"].items():
        np.testing.assert_array_equal(values[0::3], values[1::3], err_msg=place)
        np.testing.assert_allclose(values[0::3], columns["plain"][place], rtol=1e-5, atol=1e-5, err_msg=place)


def test_settings_are_chosen_where_the_study_does_not_look(studied, tmp_path, monkeypatch):
    study, asked = noise_setup.load_study(studied), []
    monkeypatch.setattr(
        noise_selection, "train_run", lambda _, task, *rest: (asked.append((task, rest[-1])), (None, False))[1]
    )
    (target,) = study.base.targets
    test = target.test
    lost = dataclasses.replace(test, images=255 - np.asarray(test.images), labels=np.roll(test.labels, 1))
    other = dataclasses.replace(study.base, targets=(dataclasses.replace(target, test=lost, views=()),))
    out = dataclasses.replace(studied, out=tmp_path / "run", selection_seeds=2)
    for base in (study.base, other):
        found = dataclasses.replace(study, base=base)
        assert noise_selection.chosen_tuners(out, found, jdt.hosts.ALONE, lambda *_, **__: None) is None
    (task, identity), (again, _) = asked
    for mine, its in zip(task.targets, again.targets, strict=True):
        assert (mine.train.fingerprint, mine.test.fingerprint) == (its.train.fingerprint, its.test.fingerprint)
        assert mine.views == ()
        parts = [np.asarray(part.images).reshape(len(part), -1) for part in (mine.train, mine.test)]
        whole = np.asarray(target.train.images).reshape(len(target.train), -1)
        np.testing.assert_array_equal(np.unique(np.concatenate(parts), axis=0), np.unique(whole, axis=0))
        assert [len(part) for part in parts] == [80, 20]
    assert task.source is study.base.source  # Without noise.
    assert task.design.masks.all()
    assert set(task.design.randomness_ids.tolist()).isdisjoint(range(noise_setup.FIRST_SELECTION_ID))
    assert identity["experiment"] == "noisy_pretraining/selection"


def test_the_best_is_the_first_of_equals_and_never_one_that_diverged():
    choice = noise_selection.Choice
    tried = [choice("mlp", 1, 1, 0.5), choice("mlp", 3, 1, 0.5), choice("mlp", 9, 1, float("nan"))]
    assert [one.chosen for one in noise_selection.best(tried)] == [True, False, False]
    with pytest.raises(jdt.UserError, match="mlp diverged with all settings"):
        noise_selection.best(tried[2:])


def test_smaller_shares_of_a_target_are_inside_larger_ones(tmp_path):
    study = noise_setup.load_study(config(tmp_path, target_fractions=(0.5, 0.1, 0.25, 1.0)))
    train = {target.name: target.train for target in study.task.targets}
    assert [one.name for one in study.variants] == [*train]
    assert [one.fraction for one in study.variants] == [1.0, 0.5, 0.1, 0.25, 1.0]
    rows = [
        {image.tobytes() for image in np.asarray(train[name].images)}
        for name in ("jdt_digits@10%", "jdt_digits@25%", "jdt_digits@50%", "jdt_digits")
    ]
    assert rows[0] < rows[1] < rows[2] < rows[3]
    shuffled, whole = train["jdt_digits@shuffled"], train["jdt_digits"]
    assert (np.asarray(shuffled.images) == np.asarray(whole.images)).all()
    assert (shuffled.labels != whole.labels).mean() > 0.5
    np.testing.assert_array_equal(np.sort(shuffled.labels), np.sort(whole.labels))


@pytest.mark.parametrize("name", list(noisy_pretraining.PRESETS))
def test_a_preset_can_be_stored(name):
    """Counted from its flags, without its data: every target, variant and rendering is a test set of its own."""
    asked = noisy_pretraining.PRESETS[name]
    variants = [target for target in asked.target for _ in {1.0, *asked.target_fractions}]
    variants += asked.target[:1] if asked.control else ()
    tests = [f"{i} {view}" for i in range(len(variants)) for view in ("", *asked.shifts)]
    choices = noise_selection.choices(asked)
    for targets, modes in (
        (tests, noise_setup.published(asked)),
        (asked.target, [one.mode for one in choices]),
    ):
        Layout(
            num_models=asked.seeds * (len(asked.rates) + 1), block_size=2, num_units=100,
            num_examples=dict.fromkeys(targets, 30_000), modes=tuple(modes), train_accuracy=True, spectrum=2048,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("others", "words"),
    [((), 0), ((1,), 1), ((2, 2, 1), 2)],
)
def test_other_processes_are_waited_for(monkeypatch, others, words):
    """As many blocks as are missing at each look."""
    looks, said, slept = iter([*([0] * one for one in others), []]), [], []
    monkeypatch.setattr(noise_selection.time, "sleep", slept.append)
    writer = types.SimpleNamespace(path="runs/x", unrecorded_blocks=lambda: next(looks))
    noise_selection.wait_for(writer, lambda words, **_: said.append(words))
    assert (len(said), len(slept)) == (words, len(others))


def test_settings_that_diverged_once_are_not_chosen_and_a_choice_stays(studied, tmp_path):
    values = np.array([[0.9, 0.9], [0.9, np.nan]])
    assert noise_selection._accuracy(values[:1]) == 0.9
    assert np.isnan(noise_selection._accuracy(values))
    tried = noise_selection.best([noise_selection.Choice("mlp", rate, 1.0, 0.5 * rate) for rate in (1.0, 0.5)])
    noise_selection._require_same(studied, tmp_path, tried)  # None was made before.
    jdt.store.write_json(tmp_path / noise_selection.FILE, [dataclasses.asdict(one) for one in tried])
    noise_selection._require_same(studied, tmp_path, tried)
    other = [dataclasses.replace(one, chosen=not one.chosen) for one in tried]
    noise_selection._require_same(dataclasses.replace(studied, out=tmp_path / "none"), tmp_path, other)
    with pytest.raises(jdt.UserError, match=r"for mlp, with which models .* were trained, and now .* pass --overwrite"):
        noise_selection._require_same(studied, tmp_path, other)
    (tmp_path / noise_selection.FILE).write_text('[{"tuner": "mlp"}]')
    with pytest.raises(jdt.UserError, match="is damaged"):
        noise_selection._require_same(studied, tmp_path, other)


def test_identity_says_whether_models_are_kept(tmp_path):
    asked = config(tmp_path, control=False, shifts=())
    study = noise_setup.load_study(asked)
    plain = noise_setup.identity(asked, study)
    kept = noise_setup.identity(dataclasses.replace(asked, save_models=True), study)
    assert "save_models" not in plain  # As in runs of before.
    assert kept == {**plain, "save_models": True}


def test_labels_are_written_once_and_what_is_overwritten_leaves_nothing(studied, tmp_path):
    out = shutil.copytree(studied.out, tmp_path / "run")
    asked, study = dataclasses.replace(studied, out=out), noise_setup.load_study(studied)
    before = {path: path.stat().st_mtime_ns for path in (out / noisy_pretraining.LABELS).rglob("*")}
    noisy_pretraining.save_labels(asked, study)
    assert {path: path.stat().st_mtime_ns for path in (out / noisy_pretraining.LABELS).rglob("*")} == before
    (out / noisy_pretraining.LABELS / "zarr.json").unlink()  # A kill.
    noisy_pretraining.save_labels(asked, study)
    assert "given" in jdt.store.read_group(out / noisy_pretraining.LABELS).arrays
    (out / "suspects-repaired-01234567").mkdir()
    (out / "suspects.json").write_text("{}")
    (out / "mine.txt").write_text("keep")
    noisy_pretraining.remove_own(asked, noisy_pretraining.is_own)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == sorted(
        {path.name for path in studied.out.iterdir() if not path.name.startswith(".")}
        - {"labels.zarr", "noise.json", "summary.json", "report.html"}
        | {"mine.txt"}
    )


def test_noise_of_a_source_of_which_a_part_is_in_units_has_its_rate_there(tmp_path):
    """Two of thirty classes: the others train nobody, and no label is one of theirs."""
    groups = tmp_path / "groups.json"
    names = noise_setup.load_study(config(tmp_path / "run", control=False, shifts=())).base.source.class_names
    groups.write_text(json.dumps({"one": list(names[:3]), "two": list(names[3:6])}))
    asked = config(tmp_path / "run", units=f"groups:{groups}", control=False, shifts=())
    study = noise_setup.load_study(asked)
    labels, inside = np.asarray(study.base.source.labels), study.inside
    assert sorted(set(labels[inside].tolist())) == list(range(6))
    members = study.task.units.members(study.task.design.masks)[study.rates.index(0.3)]
    trained, of = np.asarray(study.noise.data.labels)[members], study.noise.example[members]
    np.testing.assert_array_equal(of, np.flatnonzero(inside))
    assert (trained != labels[of]).sum() == round(0.3 * inside.sum())
    assert set(trained.tolist()) <= set(range(6))
    assert noise_bars.counts(asked, study).passed


BAD = [
    ({"rates": (0.0, 1.5)}, "a rate of noise is 1.5, but must be 0 to 1"),
    ({"rates": (0.0, float("nan"))}, "a rate of noise is nan"),
    ({"rates": (0.1, 0.3)}, "with 0 among them"),
    ({"rates": (0.0,)}, "must be two or more"),
    ({"rates": (0.0, 0.1, 0.1)}, "each once"),
    ({"noise": "salt"}, "'salt'"),
    ({"noise": "uniform:"}, "only asymmetric noise has something behind a colon"),
    ({"noise": "asymmetric"}, "asymmetric label noise needs a map of classes"),
    ({"noise": "asymmetric:MAP"}, "no such class"),
    ({"noise": "asymmetric:LIST"}, "class map"),
    ({"noise": "asymmetric:NONE"}, "NONE"),
    ({"seeds": 0}, "seeds is 0"),
    ({"nonce": -1}, "--nonce is -1"),
    ({"nonce": 2**31}, "31 bits"),
    ({"shifts": ("melt",)}, "'melt'"),
    ({"shifts": ("inversion", "inversion")}, "name each of them once"),
    ({"transfer": ("full",)}, "--transfer full is not of frozen features"),
    ({"weight_decays": (0.1,)}, "--weight-decays would do nothing"),
    ({"selection_rates": (0.0,)}, "--selection-rates must be one or more positive multiples"),
    ({"ood_target": ("jdt_digits_source",)}, "upright"),
    ({"ood_skip": True}, "--ood-map and --ood-skip are of --ood-target"),
    ({"shifts": ("colour-swap",)}, "does nothing to the grey images of jdt_digits"),
    ({"plant_control": True, "output": "margin"}, "--plant-control, --output would do nothing"),
    ({"estimators": ("ridge", "lasso")}, "takes one: pass one"),
    ({"source": "FLAT"}, "class"),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[str(one[0]) for one in BAD])
def test_what_cannot_be_studied_is_refused_before_anything_is_trained(tmp_path, changes, words):
    places = {name: tmp_path / name for name in ("MAP", "LIST", "NONE", "FLAT")}
    places["MAP"].write_text(json.dumps({"upright 0": "no such class"}))
    places["LIST"].write_text("[1, 2]")
    if changes.get("source") == "FLAT":
        from PIL import Image

        for split in ("train", "test"):
            (places["FLAT"] / split / "one").mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(places["FLAT"] / split / "one" / "0.png")
        changes = {"source": f"folder:{places['FLAT']}"}
    if path := places.get(changes.get("noise", "").partition(":")[2]):
        changes = {"noise": f"asymmetric:{path}"}
    with pytest.raises(jdt.UserError, match=words) as refused:
        noisy_pretraining.main(config(tmp_path / "run", **changes))
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()
