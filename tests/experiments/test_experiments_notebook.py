"""The notebook of docs/, executed on a run that is made here, and as it is committed.

Cells are plain Python, so they are executed one after the other in this process rather than in a Jupyter kernel: that
takes 30 packages less (nbclient, ipykernel and what these need), no second start of JAX, and warnings are seen.
"""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import warnings
from pathlib import Path

import flax.linen as nn
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

import jdt
from experiments import class_influence, counterfactual, influence_run, influence_setup, inspect_influence

NOTEBOOK = Path(__file__).parents[2] / "docs" / "read_a_run.ipynb"
TINY = ("--preset", "smoke", "--devices", "2", "--plan", "matmul", "--num-models", "8", "--recipe.epochs", "0.1",
        "--baseline-models", "0", "--model", f"{__name__}:Linear")  # fmt: skip


class Linear(nn.Module):
    """Compiles in no time."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))


def cells():
    """Sources of the code cells."""
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def execute(some, names):
    """Execute cells where `names` are known; what each printed, and its figures. Any warning is an error."""
    printed, figures = [], []
    for number, source in enumerate(some):
        with contextlib.redirect_stdout(io.StringIO()) as text, warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(source, f"<code cell {number}>", "exec"), names)
            for figure in map(pyplot.figure, pyplot.get_fignums()):
                figure.canvas.draw()
                figures.append(figure)
        pyplot.close("all")
        printed.append(text.getvalue())
    return printed, figures


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, of which a counterfactual was asked and whose worst failure was verified."""

    def only_train(config):
        task, choice = influence_setup.load_task(config)
        influence_run.train_run(config, task, choice, jdt.hosts.ALONE, jdt.cli.console.print)

    out = str(tmp_path_factory.mktemp("made") / "run")
    argv = [*TINY, "--out", out]
    assert jdt.cli.main(only_train, class_influence.PRESETS, default="demo", description="", argv=argv) == 0
    asked = {
        counterfactual: ("--plan", "matmul", "--removed", "5", "--arms", "bottom", "top"),
        inspect_influence: ("--failures", "1", "--verify", "1", "--no-images"),
    }
    for module, flags in asked.items():
        argv = ["--run", out, "--devices", "2", "--seeds", "2", "--model", f"{__name__}:Linear", *flags]
        assert jdt.cli.main(module.main, module.PRESETS, default="demo", description="", argv=argv) == 0
    return Path(out)


@pytest.fixture(autouse=True)
def drawing():
    backend = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    with matplotlib.rc_context():
        yield
    pyplot.close("all")
    pyplot.switch_backend(backend)


@pytest.fixture(scope="module")
def read(made):
    """The notebook, executed on it: the names that it defined, what cells printed, figures."""
    names: dict = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch, matplotlib.rc_context():
        patch.setenv("RUN", str(made))
        pyplot.switch_backend("agg")
        printed, figures = execute(cells(), names)
    return names, printed, figures


def test_classes_are_answered_as_an_estimate_of_ones_own_says(made, read):
    _, printed, _ = read
    run = jdt.open_run(made)
    labels, confidence = run.target("jdt_digits").labels, run.outputs("jdt_digits", output="confidence")
    by_class = np.stack([confidence[:, labels == c].mean(axis=1) for c in range(10)], axis=1)
    found = jdt.Ridge().fit(run.mask(), by_class, paired=True)
    low, high = (100 * ends for ends in found.interval())
    extremes = np.stack([found.influence.max(axis=0), found.influence.min(axis=0)], axis=1).ravel()
    for place, (line, extreme) in enumerate(zip(printed[1].splitlines()[1:21], extremes, strict=True)):
        u = run.unit_names.index(line[19:39].strip())  # One of equals.
        assert line.split()[:2] == [str(place // 2), ("helps", "harms")[place % 2]]
        assert found.influence[u, place // 2] == pytest.approx(extreme, abs=1e-6)
        assert f"{low[u, place // 2]:+.1f} to {high[u, place // 2]:+.1f}" in line
    expected, *_ = jdt.evaluate.split_half(jdt.Ridge(), run.mask(), by_class, paired=True)
    assert f"reliability of 8 models {expected:.2f}" in printed[3]


def test_the_image_is_a_failure_and_its_models_are_counted(made, read):
    names, printed, figures = read
    run = jdt.open_run(made)
    example, unit = names["example"], names["blamed"]
    labels = run.target("jdt_digits").labels
    right = (run.outputs("jdt_digits", output="prediction") == labels)[:, example]
    assert right.mean() < 0.5
    assert f"test image {example} ({labels[example]}), taken for" in printed[4]
    assert f"To blame: {run.unit_names[unit]}, -" in printed[4]
    for word, those in (("with", run.mask()[:, unit]), ("without", ~run.mask()[:, unit])):
        assert f"{word} {run.unit_names[unit]}: {right[those].mean():.0%} of 4 models are right" in printed[5]
    confidence = run.outputs("jdt_digits", output="confidence")[:, example]
    dots = [line.get_ydata() for line in figures[2].axes[2].get_lines()]
    np.testing.assert_array_equal(dots[0], confidence[run.mask()[:, unit]])
    np.testing.assert_array_equal(dots[2], confidence[~run.mask()[:, unit]])
    (folder,) = (made / "counterfactuals").glob("failures-*")
    said = jdt.open_run(folder).outputs("jdt_digits", output="confidence")[:, example]
    mean, low, high = 100 * np.array(jdt.analyses.mean_interval(said[2:] - said[:2]))
    assert f"change {mean:+.1f} points (95 % {low:+.1f} to {high:+.1f}, 2 seeds)" in printed[6]
    expected = -100 * jdt.Ridge().fit(run.mask(), confidence[:, None], paired=True).influence[unit, 0]
    assert f"the datamodel expects {expected:+.1f}" in printed[6]


def test_curves_are_those_of_the_stored_predictions(made, read):
    _, printed, figures = read
    (folder,) = (made / "counterfactuals").glob("jdt_digits-fixed-*")
    retrained = jdt.open_run(folder)
    labels = retrained.target("jdt_digits").labels
    report = jdt.analyses.halves(labels, 0).report
    accuracy = (retrained.outputs("jdt_digits", output="prediction") == labels)[:, report].mean(axis=1).reshape(2, 3)
    (axes,) = figures[-1].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["bottom", "top"]
    for container, models in zip(axes.containers, ([0, 1], [0, 2]), strict=True):
        line, _, (bars,) = container
        np.testing.assert_allclose(line.get_xdata(), [0, 5], atol=0.2)
        np.testing.assert_allclose(line.get_ydata(), accuracy[:, models].mean(axis=0))
        change = accuracy[:, models[1]] - accuracy[:, 0]
        _, low, high = jdt.analyses.mean_interval(change)
        ends = np.sort(bars.get_segments()[1][:, 1])
        np.testing.assert_allclose(ends, accuracy[:, 0].mean() + np.array([low, high]))
    for name, figure in json.loads((folder / "summary.json").read_text()).items():
        (line,) = [line for line in printed[-1].splitlines() if line.startswith(f"  {name} ")]
        value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
        assert f"{value:+.1f} ({low:+.1f} to {high:+.1f}), n = 2" in line


def test_it_says_which_command_makes_what_is_not_there(made, read, tmp_path, monkeypatch):
    names, *_ = read
    shutil.copytree(made, tmp_path / "run", ignore=shutil.ignore_patterns("counterfactuals"))
    names = {**names, "run": jdt.open_run(tmp_path / "run"), "RUN": tmp_path / "run"}
    (verified, curves, *_), figures = execute(cells()[6:], names)
    assert f"not verified yet: python -m experiments.inspect_influence --run {tmp_path / 'run'}" in verified
    assert "0 finished counterfactuals" in curves
    assert f"python -m experiments.counterfactual --run {tmp_path / 'run'}" in curves
    assert figures == []
    monkeypatch.setenv("RUN", str(tmp_path / "nowhere"))
    with pytest.raises(jdt.UserError, match=r"no run in .*nowhere: `make demo`"):
        execute(cells()[:1], {})


def test_what_is_committed_is_a_clean_execution():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    assert [place for place in ("/tmp/", "/home/", "/root/", "/Users/", str(Path.home())) if place in text] == []
    notebook = json.loads(text)
    assert notebook["nbformat"] == 4
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "in order, from a new kernel"
    assert [cell for cell in notebook["cells"] if cell["metadata"]] == []
    words = "".join("".join(cell["source"]) for cell in notebook["cells"])
    for link in re.findall(r"\]\(([^)#:]+)\)", words):
        assert (NOTEBOOK.parent / link).exists(), link
    programs = {"counterfactual": counterfactual, "inspect_influence": inspect_influence}
    for program, rest in re.findall(r"python -m experiments\.(\w+)([^`\"]*)", words):
        known = {field.name for field in dataclasses.fields(programs[program].Config)}
        assert set(re.findall(r"--([a-z]+)", rest)) <= known
    outputs = [output for cell in code for output in cell["outputs"]]
    kinds = {(output["output_type"], output.get("name")) for output in outputs}
    assert kinds == {("stream", "stdout"), ("display_data", None)}, "no error, no warning, nothing else"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
