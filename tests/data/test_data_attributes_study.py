"""A study of groups on a dataset with nested attributes, as CelebA has them: label and group are columns of it."""

import json

import flax.linen as nn
import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_examples import build_tfds, encode

import jdt
from experiments import bias_transfer


class Linear(nn.Module):
    """Compiles in no time."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        return images.reshape(len(images), -1)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Brightness says whether somebody is young, redness whether male."""
    rng, examples = np.random.default_rng(0), {}
    for split, count in (("train", 200), ("test", 120)):
        young, male = rng.integers(0, 2, (2, count)).astype(bool)
        pixels = rng.integers(0, 60, (count, 8, 8, 3)) + 60 * young[:, None, None, None]
        pixels[..., 0] += 60 * male[:, None, None]
        examples[split] = [
            {"image": encode(image), "attributes": {"Young": bool(y), "Male": bool(m), "Always": True}}
            for image, y, m in zip(pixels.astype(np.uint8), young, male, strict=True)
        ]
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
        "attributes": {"Young": np.bool_, "Male": np.bool_, "Always": np.bool_},
    }
    folder = tmp_path_factory.mktemp("faces")
    build_tfds(folder, "faces", features, examples)
    return folder


def run_main(faces, out, *arguments):
    argv = [
        "--preset", "groups", "--data-dir", faces, "--out", out, "--source", "faces", "--target", "faces",
        "--source-groups", "None", "--target-groups", "None", "--label", "attributes/Young",
        "--target-label", "attributes/Young", "--group", "attributes/Male", "--compositions", "0.5",
        "--transfer", "fixed",
        "--model", f"{__name__}:Linear", "--plan", "matmul", "--devices", "1", "--seeds", "2", "--recipe.epochs", "2",
        "--recipe.crop-pad", "0", *arguments,
    ]  # fmt: skip
    return jdt.cli.main(
        bias_transfer.main, bias_transfer.PRESETS, default="demo", description="", argv=list(map(str, argv))
    )


def test_a_correlation_with_an_attribute_of_the_source_is_studied(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(jdt.report, "add_bias", lambda *_, **__: "no page")  # Nobody reads it, and plots take a while.
    assert run_main(faces, tmp_path / "run") == 0
    found = json.loads((tmp_path / "run" / "bias.json").read_text())
    assert found["arms"] == ["phi=0", "phi=0.8", "scratch"] * 2
    run, name = jdt.open_run(tmp_path / "run"), "faces@group50%"
    groups, labels = np.array(found["groups"]["faces"]), run.target(name).labels
    cells = [int(((labels == y) & (groups == g)).sum()) for y in (0, 1) for g in (0, 1)]
    assert len(set(cells)) == 1
    assert cells[0] > 10
    predictions = run.outputs(name, "fixed", "prediction")
    for one in (one for one in found["measured"] if one["metric"] == "group skew"):
        own = predictions[np.array(found["arms"]) == one["arm"]]
        expected = (own[:, groups == 1] == 1).mean(axis=1) - (own[:, groups == 0] == 1).mean(axis=1)
        np.testing.assert_allclose(one["values"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--group", "attributes/Always"], "group is 1 throughout"),
        (["--group", "attributes/Mal"], "nearest: attributes/Male"),
    ],
)
def test_an_attribute_that_cannot_be_a_group_is_refused(faces, tmp_path, capfd, flags, words):
    assert run_main(faces, tmp_path / "run", *flags) == 2
    assert words in capfd.readouterr().err
