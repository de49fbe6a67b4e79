import importlib
import json
import zlib
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest

import jdt
from experiments import noise_bars, noise_rankings, noise_repair, noise_suspects, noisy_pretraining
from experiments.noise_setup import noise_seed
from experiments.noise_subruns import FIRST_DRAW, noisy_source

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    recompute = importlib.import_module("recompute_noise")


class Linear(nn.Module):
    """Nothing is trained."""

    width: int = 16

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.relu(nn.Dense(self.width, name="dense")(images.reshape(len(images), -1)))


NAMES = (*noise_rankings.RANKINGS, noise_rankings.NEIGHBOURS)
LOST = 2
"""Of every run with as many, the model that diverges."""


def draw_of(*parts):
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))


def made_up(task, writer, **_):
    """Blocks of the shape that training makes. What models predict is made up: it is for the verifier to count it."""
    schema = task.schema()
    for block in writer.missing_blocks():
        ids = np.asarray(schema.blocks()[block])
        lost = (ids == LOST) & (task.num_models > 3)
        arrays = {name: np.zeros((len(ids), *one.shape[1:]), one.dtype) for name, one in schema.columns().items()}
        arrays["mask"] = jdt.masks.sample(task.design, ids, len(task.units))
        arrays["source/accuracy"] = draw_of(writer.path, block).random(len(ids)).astype(np.float32)
        for target, about in schema.targets.items():
            for mode in task.modes:
                of = f"targets/{target}/{mode}/"
                for i, model in enumerate(ids.tolist()):
                    draw, labels = draw_of(target, mode, model), np.asarray(about.labels)
                    wrong = draw.random(len(labels)) < 0.2 + 0.3 * draw.random()
                    told = np.where(wrong, draw.integers(len(about.class_names), size=len(labels)), labels)
                    arrays[f"{of}prediction"][i] = -1 if lost[i] else told
                    arrays[f"{of}accuracy"][i] = np.nan if lost[i] else (told == labels).mean()
                    for column in [one for one in jdt.store.SPECTRA.values() if of + one in arrays]:
                        values = np.sort(draw.random(schema.spectrum) ** 3)[::-1] * [*[1] * (schema.spectrum - 1), 0]
                        arrays[of + column][i] = np.nan if lost[i] else values
        writer.write_block(block, arrays, {"diverged": ids[lost].tolist()})


def made_up_search(config, base, hosts, say, *_):
    """Noise as it is planted, and scores with some truth in them; what is done about the suspects is the real thing."""
    inside = np.ones(len(base.source), bool)
    noisy, wrong = noisy_source(
        base.source, noise_suspects.FLIPS, config.suspect_rate, inside, seed=noise_seed(config), draw=FIRST_DRAW
    )
    jdt.store.write_json(config.out / "suspects" / "run.json", {
        "config": {}, "provenance": {"settings": {}}, "schema": {"num_models": 8},
    })  # fmt: skip
    jdt.store.write_json(config.out / "suspects" / "blocks" / "000000.json", {"models": [0, 8]})
    rng = np.random.default_rng(3)
    scores = {name: np.round(wrong + rng.normal(0, 1, len(wrong)), 1) for name in NAMES}
    scores["loss"][:20] = np.nan
    likely = np.where(rng.random(len(wrong)) < 0.7, base.source.labels, rng.integers(30, size=len(wrong)))
    figure = jdt.report.Figure(0.5, 0.4, 0.6, 10, "AUROC", "")
    found = noise_rankings.Found(
        "examples", "suspects", 8, (), wrong, (), config.suspect_rate, 0.3, float(wrong.mean()),
        {name: noise_rankings.ranked(one, wrong, 0) for name, one in scores.items()},
        figure, np.array([], int), np.array([], int), np.asarray(noisy.labels), likely, rng.random(len(wrong)) < 0.1,
    )  # fmt: skip
    halves = jdt.analyses.halves(np.asarray(base.source_test.labels), 0)
    done, repair = noise_repair.repaired(config, base, noisy, found, halves, hosts, say)
    assert done
    return noise_suspects.Suspects(found, None, repair, int(halves.score.sum()), int(halves.report.sum()))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A study with everything in it, made up; nobody reads its page."""
    out = tmp_path_factory.mktemp("noise") / "run"
    argv = [
        "--preset", "smoke", "--out", str(out), "--model", f"{__name__}:Linear", "--devices", "1", "--plan", "scan",
        "--rates", "0", "0.05", "0.3", "--seeds", "3", "--selection-rates", "1", "3", "--nonce", "3",
        "--target-test-split", "test[:200]", "--shifts", "blur", "--block-size", "10",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jdt.report, "add_noise", lambda run, *_, **__: run / "report.html")
        patch.setattr(jdt.pipeline, "train_missing_blocks", made_up)
        patch.setattr(noise_suspects, "find", made_up_search)
        patch.setattr(noise_bars, "RELABELLINGS", 200)
        patch.setattr("jdt.train.planning.memory_limit", lambda _: None)  # Else the training is compiled.
        main, presets = noisy_pretraining.main, noisy_pretraining.PRESETS
        assert jdt.cli.main(main, presets, default="smoke", description="", argv=argv) == 0
    return out


@pytest.fixture
def few_draws(monkeypatch):
    """As the study drew."""
    monkeypatch.setattr(recompute, "RELABELLINGS", 200)


@pytest.mark.usefixtures("few_draws")
def test_every_figure_of_a_study_is_what_its_store_says(run, capsys):
    assert recompute.main([str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("agree, 0 do not.")
    told = json.loads((run / "noise.json").read_text())
    assert {None} < {value for one in told["accuracies"] for row in one["values"] for value in row}  # A lost model.
    for one in (*told["accuracies"], *told["verdicts"]):
        what = one.get("name") or recompute.slashed(recompute.key_of(one))
        kind = "verdict" if "name" in one else "accuracy"
        assert [line for line in lines if line.startswith(f"{kind} / {what}  ")], what
    chosen = [one for one in told["tried"] if one["chosen"]]
    assert len(chosen) == 4
    assert {(one["rate"], one["weight"]) for one in chosen} != {(1, 1)}  # What is made up prefers others.


def entry(claims, kind, **what):
    return next(one for one in claims[kind] if all(one[name] == value for name, value in what.items()))


def verdict(claims, start):
    return next(one for one in claims["verdicts"] if one["name"].startswith(start))


def better_once(claims):
    entry(claims, "accuracies", mode="mlp", view="blur", variant="jdt_digits@50%")["values"][1][1] += 1e-6


def flatter(claims):
    entry(claims, "spectra", mode="nmtune", view="", center="row")["sve"][0][0] += 1e-6


def less_dominated(claims):
    entry(claims, "spectra", mode="linear", view="blur", center="column")["lsvr"][2][2] *= -1


def left_out(claims):
    claims["accuracies"].remove(entry(claims, "accuracies", mode="linear", view="blur", variant="jdt_digits"))


def narrower(claims):
    verdict(claims, "C6, nmtune repairs")["figures"]["linear"]["low"] += 1e-4


def reached(claims):
    verdict(claims, "C4")["passed"] ^= True


def stronger(claims):
    verdict(claims, "C3")["figures"]["spearman"] = -0.95


def fewer_pass(claims):
    verdict(claims, "C8, C4")["figures"]["draws that pass"] += 0.5


def another_choice(claims):
    for one in claims["tried"]:
        if one["tuner"] == "mlp":
            one["chosen"] ^= True


def another_rate(claims):
    claims["tuners"]["nmtune"]["learning_rate"] *= 2


def one_more_wrong(claims):
    verdict(claims, "C0")["figures"]["30%, seed 2"] += 1


def found_better(suspects):
    suspects["examples"]["rankings"]["loss"]["auroc"]["value"] += 1e-6


def found_more(suspects):
    suspects["examples"]["rankings"]["influence"]["precision"] += 1e-6


def another_planted(suspects):
    suspects["examples"]["planted"][0] += 1


def gains_more(suspects):
    suspects["repair"]["gain"]["dropped by loss"]["mean"] += 1e-4


def fewer_left(suspects):
    suspects["repair"]["wrong"]["relabelled by influence"] -= 1


FALSIFIED = {
    "noise.json": {
        better_once: "accuracy / jdt_digits@50% / mlp / blur:",
        flatter: "sve / jdt_digits / nmtune / row:",
        less_dominated: "lsvr / jdt_digits / linear / blur / column:",
        left_out: "accuracy / jdt_digits / linear / blur",
        narrower: "verdict / C6, nmtune repairs at 30%:",
        reached: "verdict / C4, noise raises LSVR = -ln(s1 / sum s) out of distribution: reached:",
        stronger: "verdict / C3, noise harms out of distribution:",
        fewer_pass: "verdict / C8, C4 with rates given to models at random:",
        another_choice: "settings: the best of each tuner:",
        another_rate: "settings: learning rate of nmtune:",
        one_more_wrong: "verdict / C0, flip_to_other noise has its rate:",
    },
    "suspects.json": {
        found_better: "suspects / examples / loss: AUROC:",
        found_more: "suspects / examples / influence: precision:",
        another_planted: "suspects / examples: who is planted:",
        gains_more: "repair / gain / dropped by loss:",
        fewer_left: "repair / wrong labels / relabelled by influence:",
    },
}


def wrong_lines(run, capsys):
    assert recompute.main([str(run), "--brief"]) == 1
    start = "DISAGREES: "
    return [line[len(start) :] for line in capsys.readouterr().out.splitlines() if line.startswith(start)]


def linked(run, to, *without):
    """The run with some of its files to be written anew."""
    to.mkdir()
    for path in run.iterdir():
        if path.name not in without:
            (to / path.name).symlink_to(path)
    return to


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("name", list(FALSIFIED))
def test_what_was_falsified_is_named_and_nothing_else(run, tmp_path, capsys, name):
    claims = json.loads((run / name).read_text())
    for falsify in FALSIFIED[name]:
        falsify(claims)
    (linked(run, tmp_path / "run", name) / name).write_text(json.dumps(claims))
    wrong = wrong_lines(tmp_path / "run", capsys)
    expected = [*FALSIFIED[name].values(), "settings: noise.json has what selection.json has", "verdict / C8, C4"]
    assert [start for start in FALSIFIED[name].values() if not any(line.startswith(start) for line in wrong)] == []
    assert [line for line in wrong if not line.startswith(tuple(expected))] == []


@pytest.mark.usefixtures("few_draws")
def test_labels_that_nobody_was_trained_on_are_seen(run, tmp_path, capsys):
    group = jdt.store.read_group(run / "labels.zarr")
    arrays = dict(group.arrays)
    row = int(np.flatnonzero((arrays["rate"] == 0.05) & (arrays["seed"] == 1))[0])
    given, wrong = arrays["given"].copy(), arrays["is_wrong"].copy()
    one = int(np.flatnonzero(wrong[row])[0])
    given[row, one], wrong[row, one] = arrays["true"][one], False
    copy = linked(run, tmp_path / "run", "labels.zarr")
    dims = {"given": ("draw", "example"), "is_wrong": ("draw", "example"), "is_drawn": ("draw", "example"),
            "true": ("example",), "rate": ("draw",), "seed": ("draw",)}  # fmt: skip
    arrays |= {"given": given, "is_wrong": wrong}
    jdt.store.write_group(
        copy / "labels.zarr", {name: (arrays[name], dims[name]) for name in dims},
        strings={"class_name": (group.strings["class_name"], "class")}, attributes={},
    )  # fmt: skip
    wrong = wrong_lines(copy, capsys)
    for start in ("labels at 5%, seed 1: wrong", "labels of seed 1: at a rate, and not at the next", "verdict / C0"):
        assert any(line.startswith(start) for line in wrong), start


def test_what_is_no_run_is_said_so(tmp_path, capsys):
    assert recompute.main([str(tmp_path)]) == 2
    assert "cannot be compared" in capsys.readouterr().err


def test_formulas_by_hand():
    found, precision, spread = recompute.detection(
        np.array([0.9, 0.4, 0.4, 0.1, np.nan]), np.array([1, 1, 0, 0, 1]) > 0
    )
    assert (found["value"], precision, found["left_out"]) == (0.875, 0.75, 1)
    assert spread == pytest.approx(np.sqrt(5 / 48))
    assert recompute.spearman(np.array([0.0, 0.1, 0.2]), np.array([3.0, 2.0, 1.0])) == -1
    assert np.isnan(recompute.spearman(np.array([0.0, 0.1, 0.2]), np.array([3.0, np.nan, 1.0])))
    assert recompute.mean(np.array([[1.0, np.nan], [np.nan, np.nan]])).tolist() == pytest.approx(
        [1, np.nan], nan_ok=True
    )
