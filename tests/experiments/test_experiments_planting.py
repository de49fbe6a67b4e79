"""`--plant`: what is planted is in the run, is part of what it is, and is looked for at the end."""

import dataclasses
import json
import pathlib

import flax.linen as nn
import pytest

import jdt
from experiments import class_influence
from experiments.influence_setup import identity, make_task
from experiments.planting import read_fits


class Linear(nn.Module):
    """Compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes, name="head")(features), features


UPRIGHT = {str(digit): [f"upright {digit}"] for digit in range(10)}


def config(tmp_path, **changes):
    fits = tmp_path / "fits.json"
    fits.write_text(json.dumps(UPRIGHT))
    return dataclasses.replace(
        class_influence.PRESETS["smoke"],
        out=tmp_path / "run",
        num_models=4,
        estimators=("difference",),
        plan="native",
        baseline_models=0,
        model=f"{__name__}:Linear",
        devices=1,
        plant_fits=fits,
        **changes,
    )


def test_planted_truth_is_saved_looked_for_and_part_of_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jdt.report, "write_report", lambda path, _: path)  # Pages have tests of their own.
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({name: [name] for names in UPRIGHT.values() for name in names}))
    given = config(
        tmp_path,
        units="examples",
        source_groups=groups,
        source_per_group=6,
        plant=("leak:3", "misleading:2"),
        target_test_split="test[:60]",
    )
    class_influence.main(given)
    printed = capsys.readouterr().out
    assert "planted/leak" in printed
    assert "bar: at least 80%" in printed
    run = tmp_path / "run"
    leak, misleading = (
        jdt.plant.Planted.from_plain(one) for one in json.loads((run / "planted.json").read_text())["planted"]
    )
    assert (leak.kind, len(leak.source), misleading.kind, len(misleading.source)) == ("leak", 3, "misleading", 2)
    summary = json.loads((run / "summary.json").read_text())
    figure = summary["jdt_digits/fixed/difference/planted/leak/first"]
    influences = jdt.load_influences(run, estimator="difference").influence
    assert influences.shape[0] == 60  # Units: 6 images of each of 10 classes.
    ranks = [int((influences[:, j] >= influences[i, j]).sum()) for i, j in zip(leak.source, leak.target, strict=True)]
    assert figure["value"] == pytest.approx(sum(rank == 1 for rank in ranks) / 3)
    assert figure["n"] == 3
    # The control is another run; masks and all else are the same.
    with pytest.raises(jdt.UserError, match="planted"):
        class_influence.main(dataclasses.replace(given, plant_control=True))


def test_planting_does_not_change_the_identity_of_runs_without_it(tmp_path):
    plain = config(tmp_path, plant=())
    planted = config(tmp_path, plant=("harmful:upright 3",))
    one, other = (identity(each, make_task(each)) for each in (plain, planted))
    assert {"planted"} == other.keys() - one.keys()
    changed = jdt.config.difference(one, other)
    assert all(line.startswith(("planted", "fingerprints")) for line in changed)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("leek:3", "must be one of leak:COUNT"),
        ("leak:many", "must be one of leak:COUNT"),
        ("harmful:upright 33", "nearest: upright 3"),
        ("leak:100000", "asks for 100000 copies"),
        ("leak:3", "pass --units examples"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused(tmp_path, order, message):
    with pytest.raises(jdt.UserError, match=message):
        make_task(config(tmp_path, plant=(order,)))


def test_a_file_of_fits_that_is_none_is_refused(tmp_path):
    (tmp_path / "bad.json").write_text('{"dog": "beagle"}')
    data = jdt.data.load("jdt_digits", "test")
    for path in (tmp_path / "bad.json", pathlib.Path("/nowhere")):
        with pytest.raises(jdt.UserError, match="--plant-fits"):
            read_fits(path, data, data)
