import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jdt
from experiments import class_influence, paper_recipes

SMOKE = ("--preset", "smoke", "--devices", "2")
QUICK = (*SMOKE, "--plan", "matmul", "--estimators", "ridge")  # Fewer programs to compile.
LINEAR = ("--model", "tiny_network:Linear")
TINY = (*QUICK, "--num-models", "4", "--recipe.epochs", "0.1")


def command(*arguments):
    return jdt.cli.main(
        class_influence.main,
        class_influence.PRESETS,
        default="demo",
        description="",
        argv=[str(argument) for argument in arguments],
    )


def refusal(capfd, *arguments):
    """Run a command that must be refused and return its one line."""
    code = command(*arguments)
    captured = capfd.readouterr()
    assert code == 2, captured
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.out
    return lines[0]


@pytest.fixture
def no_page(monkeypatch):
    """Nobody reads the page, and its plots take a while."""
    monkeypatch.setattr(jdt.report, "write_report", lambda path, _: path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A smoke run as a user makes it: a process of its own."""
    out = tmp_path_factory.mktemp("smoke") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.class_influence", *SMOKE, "--out", str(out)],
        capture_output=True, text=True, check=False, timeout=600, cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_smoke_run_ends_in_a_table_a_page_and_arrays(finished):
    out, printed = finished
    assert "planted truth" in printed
    assert "split-half reliability" in printed
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "upright 3" in page
    assert not re.search(r"<script[^>]+src=|https?://(?!www\.w3\.org)", page)
    summary = json.loads((out / "summary.json").read_text())
    assert {"value", "low", "high", "n", "unit"} <= set(summary["jdt_digits/fixed/accuracy"])
    run = jdt.open_run(out)
    assert len(run.complete) == run.num_models == 8
    influences = jdt.load_influences(out, level="class")
    assert influences.influence.shape == (30, 10)
    assert influences.top("3")[0].unit in influences.unit_names
    assert run.provenance["versions"]["jax"]


def test_the_same_command_again_trains_nothing(finished, capfd, no_page):
    out, _ = finished
    before = {path: path.read_bytes() for path in (out / "blocks").iterdir()}
    assert command(*SMOKE, "--out", out) == 0
    assert "nothing to train" in capfd.readouterr().out
    assert {path: path.read_bytes() for path in (out / "blocks").iterdir()} == before


def test_full_transfer_from_a_streamed_pool_ends_in_the_same_places(capfd, tmp_path):
    folder, draw = tmp_path / "images", np.random.default_rng(0)
    for split, label, number in itertools.product(("train", "test"), "abcd", range(24)):
        picture = draw.integers(0, 90, (8, 8)).astype(np.uint8)
        picture[:, 2 * "abcd".index(label)] = 255
        path = folder / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    data = f"folder:{folder}"
    out = tmp_path / "run"
    settings = ("--recipe.epochs", "2", "--recipe.batch-size", "4", "--full.recipe.epochs", "1", *LINEAR)
    pooled = ("--streamed", "--memory-budget", str(40 * 64 / 2**30), "--precision", "bfloat16")
    assert command(
        *QUICK, "--out", out, "--source", data, "--target", data, "--transfer", "fixed", "full", "--num-models", "4",
        *settings, *pooled,
    ) == 0  # fmt: skip
    printed = capfd.readouterr().out
    assert "3 pools a pass" in printed
    assert "bfloat16" in printed
    assert "training from scratch" in printed
    run = jdt.open_run(out)
    target = data
    accuracy = run.column(f"targets/{target}/full/accuracy")
    assert np.isfinite(accuracy).all()
    assert np.isfinite(run.column(f"targets/{target}/full/loss")).all()
    assert (accuracy != run.column(f"targets/{target}/fixed/accuracy")).any()
    assert jdt.load_influences(out, target=target, mode="full", level="class").influence.shape == (4, 4)
    assert run.provenance["plan"]["name"] in jdt.train.PLANS
    assert run.config["precision"] == "bfloat16"
    assert "full-network transfer" in (out / "report.html").read_text(encoding="utf-8")


def test_a_run_stops_at_a_low_reliability_and_a_later_one_goes_on(capfd, tmp_path, no_page):
    kinds, halves = ("upright", "upside-down", "scrambled"), (range(5), range(5, 10))
    groups = {f"{kind} {half[0]}": [f"{kind} {d}" for d in half] for kind, half in itertools.product(kinds, halves)}
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    out = tmp_path / "run"
    bounded = (
        *QUICK, *LINEAR, "--out", out, "--num-models", "12", "--block-size", "4",
        "--units", f"groups:{tmp_path / 'groups.json'}",
    )  # fmt: skip

    assert command(*bounded, "--until-reliability", "0.02") == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "or more on every target after 8 of 12 models; asked: 0.02." in printed
    assert jdt.open_run(out).complete.tolist() == list(range(8))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["jdt_digits/fixed/ridge/reliability"]["value"] >= 0.02
    saved, before = (out / "run.json").read_bytes(), {path: path.read_bytes() for path in (out / "blocks").iterdir()}

    assert command(*bounded, "--until-reliability", "0.02") == 0  # Enough are there already.
    capfd.readouterr()
    assert {path: path.read_bytes() for path in (out / "blocks").iterdir()} == before

    assert command(*bounded, "--until-reliability", "0.999") == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert re.search(
        r"after 12 of 12 models; asked: 0.999; .*(more: run the same command with --num-models|cannot be)", printed
    )
    assert len(jdt.open_run(out).complete) == 12
    assert (out / "run.json").read_bytes() == saved
    assert {path: path.read_bytes() for path in before} == before


def test_another_configuration_is_refused_with_the_difference(finished, capfd):
    out, _ = finished
    before = (out / "run.json").read_bytes()
    line = refusal(capfd, *SMOKE, "--out", out, "--recipe.learning-rate", "0.2")
    assert "recipe.learning_rate: saved 0.1, asked 0.2" in line
    assert "--overwrite" in line
    assert (out / "run.json").read_bytes() == before


def test_no_resume_leaves_a_run_alone(finished, capfd):
    out, _ = finished
    assert "--no-resume was given" in refusal(capfd, *SMOKE, "--out", out, "--no-resume")


def test_another_schema_version_is_refused(finished, capfd, tmp_path):
    out, _ = finished
    run_file = json.loads((out / "run.json").read_text())
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / "run.json").write_text(json.dumps({**run_file, "schema_version": 99}))
    assert re.search("schema version 99", refusal(capfd, *SMOKE, "--out", copied))


def test_a_truncated_chunk_is_named_and_its_block_trained_again(finished, capfd, no_page):
    out, _ = finished
    expected = jdt.open_run(out).outputs("jdt_digits", "fixed", "margin")
    chunk = next(
        path for path in sorted((out / "store.zarr/targets/jdt_digits/fixed/margin/c/1").rglob("*")) if path.is_file()
    )
    chunk.write_bytes(chunk.read_bytes()[:-7])
    assert command(*SMOKE, "--out", out) == 0
    printed = capfd.readouterr().out
    assert "damaged" in printed
    assert "margin" in printed
    np.testing.assert_array_equal(jdt.open_run(out).outputs("jdt_digits", "fixed", "margin"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "jdt_digits_sauce"], "jdt_digits_source"),
        (["--source", "cifar10"], "download_and_prepare"),
        (["--fraction", "1.0", "--design", "fixed-size"], "fraction is 1.0, but it must lie strictly between 0 and 1"),
        (["--num-models", "1"], "num-models is 1"),
        (["--num-models", "7"], "num-models is 7, which is odd"),
        (["--model", "resnet1"], "unknown model 'resnet1'; known: small_cnn"),
        (["--model", "jdt.models:ZOO"], "it is no class and no function"),
        (["--model-args", "depth=3"], "model SmallCNN takes no argument 'depth'; it takes: num_classes, width."),
        (["--features", "pooled"], "asks for an entry of a dictionary"),
        (["--start-from", "missing.msgpack"], "missing.msgpack is no file and no folder"),
        (["--plan", "fast"], "unknown plan 'fast'; known: auto, winograd"),
        (["--devices", "9"], "devices is 9, but this process has 8"),
        (["--memory-budget", "0"], "memory-budget is 0.0 GiB, but it must be positive"),
        (["--memory-budget", "0.000001"], "raise --memory-budget to"),
        (["--units", "groups:missing.json"], "cannot read the groups file"),
        (["--units", "pixels"], "units is 'pixels'"),
        (["--target", "folder:/no/such/folder"], "/no/such/folder"),
        (["--until-reliability", "1.0"], "until-reliability is 1.0, but it must lie strictly between 0 and 1"),
        (["--image-size", "0"], "image_size is 0, but it must be at least 1"),
        (["--preset", "small"], "unknown preset 'small'; known: demo, smoke, paper"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, message, capfd, tmp_path):
    out = tmp_path / "run"
    line = refusal(capfd, *TINY, "--out", out, "--data-dir", tmp_path / "tfds", *arguments)
    assert message in line
    assert not out.exists()


def folder_of_images(root, classes, *, size=8, mode="L"):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                shape = (size, size) if mode == "L" else (size, size, 3)
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{i}.png")
    return f"folder:{root}"


def test_one_class_is_refused(capfd, tmp_path):
    source = folder_of_images(tmp_path / "one", ["only"])
    assert "one class, 'only'" in refusal(capfd, *TINY, "--out", tmp_path / "run", "--source", source)
    assert not (tmp_path / "run").exists()


def test_images_that_do_not_fit_the_target_are_refused(capfd, tmp_path):
    source = folder_of_images(tmp_path / "wide", ["a", "b", "c"], size=12)
    assert "--image-size" in refusal(capfd, *TINY, "--out", tmp_path / "run", "--source", source)


def test_a_folder_of_images_is_a_source_and_small_subsets_shrink_the_batch(capfd, tmp_path, no_page):
    source = folder_of_images(tmp_path / "images", ["a", "b", "c", "d"])
    assert command(*TINY, *LINEAR, "--out", tmp_path / "run", "--source", source) == 0
    assert "the batch shrinks from 64 to 12 images" in " ".join(capfd.readouterr().out.split())
    assert jdt.open_run(tmp_path / "run").unit_names == ("a", "b", "c", "d")


def test_an_unwritable_out_is_refused(capfd, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refusal(capfd, *TINY, "--out", tmp_path / "file" / "run")


def test_a_directory_of_something_else_is_not_touched(capfd, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert str(tmp_path) in refusal(capfd, *TINY, "--out", tmp_path, "--overwrite")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_help_names_every_common_flag():
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.class_influence", "--help"],
        capture_output=True, text=True, check=True, env=environment, cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    for flag in (
        "--out",
        "--seed",
        "--data-dir",
        "--units",
        "--model",
        "--num-models",
        "--plan",
        "--overwrite",
        "--preset",
    ):
        assert flag in done.stdout


def test_the_papers_targets_are_all_there():
    # arXiv 2207.05739, table of section 2.1: 12 targets and the identity check.
    assert len(paper_recipes.PAPER_HEAD_TARGETS) == 12
    steps = {row.dataset: row for row in paper_recipes.PAPER_TARGETS}
    assert steps["oxford_flowers102"].epochs == 50
    assert class_influence.PRESETS["paper"].num_models == 7540
    assert class_influence.PRESETS["paper"].recipe.schedule(1024.0)(0) == 0.0
