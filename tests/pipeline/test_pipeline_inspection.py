"""Questions to a run: which influences answer them, and what comes out on planted truth."""

import dataclasses

import numpy as np
import pytest

from jdt import masks, pipeline, store
from jdt.checks import UserError
from jdt.estimators import DifferenceOfMeans

UNITS, EXAMPLES, CLASSES = 30, 12, ("cat", "dog", "ship", "nothing")
LABELS = (np.arange(EXAMPLES) % 3).astype(np.int32)
FIT = DifferenceOfMeans()
DESIGN = masks.Design("bernoulli", 0.5, seed=0)


def write_run(path, *, models=96, written=None, kind="examples", effect=None):
    """A run of a linear world, of which the first blocks are written; each call goes on where the last one ended."""
    names = tuple(f"{i}" if kind == "examples" else f"unit {i}" for i in range(UNITS))
    schema = store.Schema(models, 8, names, {"pets": store.Target(LABELS, CLASSES)}, ("fixed",))
    config = {"units": kind, "design": {"kind": "bernoulli"}}
    writer = store.create_or_open(path, config=config, provenance={"output": "confidence"}, schema=schema)
    rows = masks.sample(DESIGN, np.arange(models), UNITS)
    noise = 0.02 * np.random.default_rng(0).normal(size=(models, EXAMPLES))
    confidence = 0.5 + (rows - 0.5) @ (planted() if effect is None else effect) + noise
    for block in writer.missing_blocks()[:written]:
        which = list(schema.layout.models_of(block))
        values = {}
        for column in schema.columns().values():
            values[column.name] = np.zeros((len(which), *column.shape[1:]), column.dtype)
        values["mask"] = rows[which]
        values["targets/pets/fixed/confidence"] = values["targets/pets/fixed/margin"] = confidence[which].astype("f4")
        values["targets/pets/fixed/prediction"] = np.where(np.arange(EXAMPLES) == 7, 2, LABELS)[None].repeat(8, 0)
        writer.write_block(block, {n: v.astype(schema.columns()[n].dtype) for n, v in values.items()}, {"seconds": 1.0})
    return store.open_run(path)


def planted():
    """Source image j helps test image j for j below 3; 20 and 21 harm images 7 and 8; 5, a cat, drives three dogs."""
    effect = np.zeros((UNITS, EXAMPLES))
    effect[[0, 1, 2], [0, 1, 2]] = 0.2
    effect[[20, 21], [7, 8]] = -0.2
    effect[5, LABELS == 0], effect[5, [4, 10, 1]] = 0.2, [0.17, 0.15, 0.1]
    return effect


def gallery():
    """Test images 0 and 1 are copies of source images 0 and 1, 8 is one of 21; 3 is one of 9, which does nothing."""
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (UNITS, 16, 16, 3), np.uint8)
    target = rng.integers(0, 256, (EXAMPLES, 16, 16, 3), np.uint8)
    target[0], target[1], target[8], target[3] = source[0], source[1][:, ::-1], source[21], source[9]
    labels = (np.arange(UNITS) % 2).astype(np.int32)
    return pipeline.Gallery(source, labels, ("even", "odd"), masks.by_example(labels), {"pets": target})


@pytest.fixture(scope="module")
def inspector(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("run") / "run")
    return pipeline.Inspector(pipeline.gather_evidence(run, estimator="difference"), gallery(), count=3)


def test_a_class_an_image_and_a_unit_are_told_apart_from_noise(inspector):
    example = inspector.of_example(7)
    assert example.title == "test image 7 (dog), taken for ship by 100% of the models"
    assert example.harms[0].name == "source image 20 (even)"
    assert example.harms[0].low < -0.2 < example.harms[0].high
    assert example.harms[0].note.startswith("q ")
    assert all("within noise" in one.note for one in example.harms[1:])
    assert example.images.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(example.harms[0].images[0], gallery().source[20])
    unit = inspector.of_unit(5)
    assert all(one.name.endswith("(cat)") for one in unit.helps)
    assert "Of the classes it helps cat most" in unit.text
    assert inspector.of_class("cat").helps[0].name == "source image 5 (odd)"


def test_subpopulations_and_failures(inspector):
    (group,) = inspector.subpopulations(3, units=[5, 6])
    assert group.title == "source image 5 (odd) → dog"
    assert [one.name for one in group.helps] == [f"test image {i} (dog)" for i in (4, 10, 1)]
    assert "helps cat most, but 3 of the 4 test images labelled dog are among those" in group.text
    found = inspector.failures(5)
    assert found.blamed.targets.tolist() == [7]
    assert found.blamed.units.tolist() == [20]
    (case,) = inspector.failure_cases(found)
    assert "To blame: source image 20 (even), -2" in case.text
    assert "Retrained" not in case.text


def test_influence_and_similarity_are_shown_side_by_side(inspector):
    alike = pipeline.copies(inspector)
    leaks = pipeline.suspects(inspector, "leakage", 10, alike)
    verdicts = {(row.source.split()[2], row.target.split()[2].rstrip(",")): row.verdict for row in leaks.rows}
    assert verdicts[("0", "0")] == verdicts[("1", "1")] == "both"
    assert verdicts[("2", "2")] == "influence only"
    assert verdicts[("9", "3")] == "similarity only"
    assert leaks.figures["both"].value == 2
    assert leaks.rows[0].rank == 1
    misleading = pipeline.suspects(inspector, "misleading", 2, alike)
    assert [(row.source, row.verdict) for row in misleading.rows] == [
        ("source image 21 (odd)", "both"),
        ("source image 20 (even)", "influence only"),
    ]


def test_saved_influences_are_read_in_parts(tmp_path):
    run = write_run(tmp_path / "run")
    models = pipeline.usable_models(run, "pets", "fixed")
    whole = pipeline.fit_target(run, "pets", "fixed", "margin", FIT, models=models, tile=12).levels["example"]
    evidence = pipeline.gather_evidence(run, output="margin")
    assert (evidence.estimator, evidence.num_models, evidence.note, evidence.estimated) == ("difference", 96, "", None)
    units, examples = np.array([3, 20]), np.array([7, 0, 11])
    part = evidence.examples(units=units, only=examples)
    assert (part.unit_names, part.target_names) == (("3", "20"), ("7", "0", "11"))
    for name, values in part.grids().items():
        full = np.broadcast_to(getattr(whole, name), whole.influence.shape)[np.ix_(units, examples)]
        np.testing.assert_allclose(np.broadcast_to(values, full.shape), full, rtol=1e-6)
    np.testing.assert_allclose(part.intercept, whole.intercept[examples], rtol=1e-6)
    assert evidence.level("class", units=units).influence.shape == (2, 3)


def test_a_run_in_progress_is_asked_with_what_is_complete(tmp_path):
    run = write_run(tmp_path / "run", written=6)
    evidence = pipeline.gather_evidence(run, estimator="difference")
    assert evidence.num_models == 48
    assert evidence.note == (
        "the run is in progress: 48 of 96 models are complete; influences are estimated anew from 48 models, and not "
        "saved."
    )
    assert not (tmp_path / "run" / "influences").exists()
    # Saved ones that rest on fewer models than are complete are not what is asked.
    models = pipeline.usable_models(run, "pets", "fixed")
    pipeline.fit_target(run, "pets", "fixed", "confidence", FIT, models=models, tile=12)
    assert pipeline.gather_evidence(run).estimated is None
    evidence = pipeline.gather_evidence(write_run(tmp_path / "run"))
    assert (evidence.estimator, evidence.num_models, evidence.estimated is None) == ("difference", 96, False)
    np.testing.assert_array_equal(
        evidence.examples(only=np.array([7])).influence[:, 0], evidence.estimated["example"].influence[:, 7]
    )


def test_what_is_too_large_to_be_estimated_in_passing_is_said_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.evidence, "MOST_IN_MEMORY", 10)
    run = write_run(tmp_path / "run", written=6)
    with pytest.raises(
        UserError, match=r"too large to estimate them in passing: python -m experiments.fit_datamodels "
    ):
        pipeline.gather_evidence(run)
    models = pipeline.usable_models(run, "pets", "fixed")
    pipeline.fit_target(run, "pets", "fixed", "confidence", FIT, models=models, tile=12)
    evidence = pipeline.gather_evidence(write_run(tmp_path / "run"))
    assert "influences rest on 48 models, and 96 are complete; estimate them anew with: python -m" in evidence.note
    with pytest.raises(UserError, match="too many to be read together: name some units"):
        pipeline.Inspector(evidence).subpopulations(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: pipeline.gather_evidence(i.run, "fish"), "unknown target 'fish'; known: pets"),
        (lambda i: pipeline.gather_evidence(i.run, mode="full"), "unknown mode 'full'; known: fixed"),
        (lambda i: pipeline.gather_evidence(i.run, output="loss"), "holds no output 'loss', only"),
        (lambda i: pipeline.gather_evidence(i.run, output="prediction"), "is a class number"),
        (lambda i: pipeline.gather_evidence(i.run, estimator="magic"), "unknown estimator 'magic'; known: ridge"),
        (lambda i: i.of_class("cow"), "unknown target class 'cow'; known: cat, dog"),
        (lambda i: i.of_class("nothing"), "'nothing' has no test image"),
        (lambda i: i.of_example(12), "has 12, numbered from 0 to 11"),
        (lambda i: i.unit_number("31"), "no source unit '31'; nearest of 30:"),
        (lambda i: pipeline.copies(dataclasses.replace(i, gallery=None)), "those are not at hand"),
    ],
)
def test_what_is_not_there_is_refused(inspector, call, message):
    with pytest.raises(UserError, match=message):
        call(inspector)


def test_without_images_and_without_labels_everything_else_is_answered(tmp_path):
    run = write_run(tmp_path / "run", kind="groups")
    inspector = pipeline.Inspector(pipeline.gather_evidence(run, estimator="difference"))
    assert inspector.of_class("dog").images.shape[0] == 0
    assert inspector.of_example(7).harms[0].name == "unit 20"
    with pytest.raises(UserError, match="units of this run are groups: make a run with --units examples"):
        pipeline.copies(inspector)
