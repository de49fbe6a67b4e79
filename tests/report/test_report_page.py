"""Laws of the page: nothing from outside, nothing unescaped, and the numbers of the content."""

import base64
import dataclasses
import html
import io
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import rich.console
from PIL import Image
from report_examples import CIFAR, EVIL, make_content, make_target, pictures, poisoned, read, with_influences

from jdt.checks import UserError
from jdt.report import findings_table, write_figures, write_report


def words(page):
    return re.sub(r"\s+", " ", "".join(read(page).words)).replace("\N{MINUS SIGN}", "-")


def images(page):
    for tag, attrs in read(page).tags:
        if tag == "img":
            yield Image.open(io.BytesIO(base64.b64decode(attrs["src"].partition("base64,")[2]))), attrs


def test_page_needs_nothing_else(page):
    text, path = page
    reader = read(text)
    assert not re.search(r"https?://|//\w+\.|@import|url\(", text)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert all(re.match(r"data:image/(png|webp);base64,", attrs["src"]) for tag, attrs in reader.tags if tag == "img")
    links = [attrs["href"] for _, attrs in reader.tags if "href" in attrs]
    files = [link for link in links if link[:1] != "#" and link != "data:,"]
    assert len(files) == 14
    assert all((path.parent / file).is_file() for file in files)
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_markup_is_well_formed_and_accessible(page):
    reader = read(page[0])
    assert reader.wrong == []
    assert reader.open == []
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in reader.tags:
        for target in (attrs.get("href", ""), "#" + attrs.get("aria-labelledby", "")):
            assert target[:1] != "#" or target[1:] in {*ids, ""}
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(len(attrs["alt"]) > 20 for tag, attrs in reader.tags if tag == "img")
    assert any(attrs.get("name") == "viewport" for _, attrs in reader.tags)


def test_every_image_is_a_picture(page):
    sizes = []
    for image, attrs in images(page[0]):
        image.load()
        assert np.asarray(image.convert("L")).std() > 5
        sizes.append(image.size)
        if "width" in attrs:
            assert image.size == (int(attrs["width"]), int(attrs["height"]))
    # Four figures, five strips a class, and those of the grid.
    assert len(sizes) == 4 + 10 * 5 + 30 + 10


def test_every_string_of_a_content_is_escaped(written):
    content = make_content(make_target(units=22, classes=("a", "b", "c")))
    plan = {"config": {"recipe": ["sgd", {"name": "x"}]}, "plan": ("a", None), "command": "python", "when": {}}
    hostile = poisoned(dataclasses.replace(content, provenance=plan))
    text, path = written(hostile)
    reader = read(text)
    assert text.count("<script") == text.count("</script") == 1
    assert not [c for c in text if ord(c) < 32 and c != "\n"]
    assert reader.wrong == []
    assert reader.open == []
    attributes = (
        "alt aria-hidden aria-label aria-labelledby autocomplete charset class colspan content cx data-decimals "
        "data-key data-name data-output data-r data-unit data-v data-z height hidden href http-equiv id lang name r "
        "rel role scope src tabindex title type viewbox width x1 x2 y1 y2"
    )
    assert {name for _, attrs in reader.tags for name in attrs} <= set(attributes.split())
    assert words(text).count(EVIL) > 100
    for attribute in ("alt", "title", "aria-label"):
        assert any(EVIL in attrs.get(attribute, "") for _, attrs in reader.tags), attribute
    target = hostile.targets[0]
    found = next(iter(target.estimators.values()))
    shown = [
        hostile.title, hostile.warnings[0], target.target, target.mode, target.output, target.truth.question,
        *target.estimators, found.classes.unit_names[int(np.argmax(found.task.influence))], *found.classes.target_names,
        found.models_needed.text, *(figure.text for figure in found.significant.values()), *target.pair_correlation,
        *hostile.figures, *(figure.unit for figure in hostile.figures.values()), *hostile.provenance,
    ]  # fmt: skip
    page = words(text)
    assert [name for name in shown if name.removesuffix("\0\x1b[2J\ud800") not in page] == []
    folders = ("figures", "tables", "sections")
    assert {p.name for p in path.parent.iterdir()} == {"report.html", *folders}
    assert all(p.is_file() for folder in folders for p in (path.parent / folder).iterdir())
    lines = io.StringIO()
    rich.console.Console(file=lines, width=200).print(findings_table(target))
    lines.getvalue().encode()
    assert "\x1b" not in lines.getvalue()


def test_summary_says_the_numbers_of_the_content(page, content):
    text, target = words(page[0]), content.targets[0]
    task = target.estimators["ridge"].task
    pattern = (
        r"(\d+) models, .* reach ([\d.]+) % accuracy on average \(standard deviation ([\d.]+) points, from ([\d.]+) % "
        r"to ([\d.]+) %\); untrained features: ([\d.]+) %\."
    )
    found = re.search(pattern, text)
    accuracy = target.accuracy.astype(float)
    expected = [400, 100 * accuracy.mean(), 100 * accuracy.std(), 100 * accuracy.min(), 100 * accuracy.max(),
                100 * target.random_accuracy.mean()]  # fmt: skip
    np.testing.assert_allclose([float(x) for x in found.groups()], expected, atol=0.051)

    low, high = task.interval()
    for words_after, harmful in (("helps the whole task most", False), ("harms it most", True)):
        best = task.top(0, 1, harmful=harmful)[0]
        unit = task.unit_names.index(best.unit)
        pattern = (
            rf"“{best.unit}” \(([-+.\d]+) pp, 95 % interval ([-+.\d]+) to ([-+.\d]+); z ([-+.\d]+)\) {words_after}"
        )
        numbers = [float(x) for x in re.search(pattern, text).groups()]
        expected = [100 * best.influence, 100 * low[unit, 0], 100 * high[unit, 0]]
        np.testing.assert_allclose(numbers[:3], expected, atol=0.0051)
        assert numbers[3] == pytest.approx(best.z, abs=0.051)
    assert "found? Yes: AUROC 0.943 (0.9 to 0.975); negative control with permuted masks 0.502 (0.381 to 0.624)" in text
    assert "Only 400 models" in text


def test_a_truth_that_was_missed_is_called_missed(written):
    target = make_target(units=22)
    missed = dataclasses.replace(target, truth=dataclasses.replace(target.truth, passed=False))
    text = words(written(make_content(missed))[0])
    assert "found? No: AUROC" in text
    assert "not found" in text


def test_table_has_the_top_units_of_every_class(page, content):
    body = page[0]
    for target_class in CIFAR:
        rows = re.search(rf'scope="rowgroup"[^>]*>{target_class}<.*?</tbody>', body, re.DOTALL).group()
        units = re.findall(r'class="short" title="([^"]*)"', rows)
        classes = content.targets[0].estimators["ridge"].classes
        helpful, harmful = (classes.top(target_class, 3, harmful=side) for side in (False, True))
        assert units == [r.unit for r in helpful] + [r.unit for r in harmful][::-1]
        shown = html.unescape(re.search(r'class="number helps"[^>]*>([^<]*)<', rows).group(1))
        number, error = (float(x) for x in re.findall(r"[\d.]+", shown))
        assert number == pytest.approx(100 * helpful[0].influence, abs=0.0051)
        assert error == pytest.approx(100 * helpful[0].standard_error, abs=0.0051)


def _damage(influences):
    """One unit that the models cannot tell, one that is NaN, one without an error, one with a huge error."""
    value, error, z = (x.copy() for x in (influences.influence, influences.standard_error, influences.z))
    error[3], z[3], value[4], error[4], z[4] = np.inf, 0, np.nan, np.nan, np.nan
    error[5], z[5], value[5] = np.nan, np.nan, 1.0
    error[6] *= 1e6
    return dataclasses.replace(influences, influence=value, standard_error=error, z=z)


def test_what_the_models_cannot_tell_is_unknown(written):
    text = words(written(make_content(with_influences(make_target(), _damage)))[0])
    assert "2 units are unknown" in text
    assert "+100.00 pp ± unknown" in text
    assert "interval unknown" in text
    assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)


def test_everything_unknown_still_makes_a_page(written):
    def erase(influences):
        nothing = np.full_like(influences.influence, np.nan)
        return dataclasses.replace(influences, influence=nothing, standard_error=nothing + np.inf, z=nothing)

    target = with_influences(make_target(units=5), erase)
    nothing = np.array([], np.float32)
    target = dataclasses.replace(target, accuracy=nothing, random_accuracy=nothing, class_images={})
    text = words(written(dataclasses.replace(make_content(target), unit_images={}, figures={}, provenance={}))[0])
    assert "cannot tell the influence of any unit" in text
    assert "no accuracies were measured" in text


def test_an_estimator_without_standard_errors_is_shown_without_them(written):
    def forget(influences):
        return dataclasses.replace(influences, standard_error=None, z=None, degrees_of_freedom=None)

    target = with_influences(make_target(units=22, truth=False), forget)
    found = {name: dataclasses.replace(one, z_variance=None, significant={}) for name, one in target.estimators.items()}
    target = dataclasses.replace(target, estimators=found)
    text = words(written(make_content(target, warnings=()))[0])
    assert "This estimator gives no standard errors." in text
    assert "0.81 (0.77 to 0.85)" in text
    for absent in ("unknown", "with error bars", "with 95 % intervals. Hollow", "; z", "Dots mark", " nan"):
        assert absent not in text, absent
    best = target.estimators["ridge"].task.top(0, 1)[0]
    assert re.search(rf"“{best.unit}” \([-+.\d]+ pp\) helps the whole task most", text)


def test_optional_parts_are_left_out(written):
    target = make_target(units=22, estimators=("difference",), truth=False)
    target = dataclasses.replace(target, pair_correlation={}, output="margin", mode="full")
    text = words(written(dataclasses.replace(make_content(target, warnings=()), relative=False))[0])
    for absent in ("planted", "antithetic", "by ridge", "Before believing", "K/(K"):
        assert absent not in text, absent
    assert "logits" in text
    assert "full-network transfer" in text


def test_two_targets_with_odd_pictures(written):
    first, second = make_target(units=22), make_target(units=22, classes=("only",), seed=1)
    content = make_content(first, dataclasses.replace(second, target="猫/../x"))
    odd = {name: image[:1, :9, :9, :1] for name, image in content.unit_images.items()}
    text, path = written(dataclasses.replace(content, unit_images=odd))
    assert read(text).wrong == []
    assert len(list((path.parent / "figures").iterdir())) == 2 * 8


def test_a_large_report_stays_small(written):
    rng = np.random.default_rng(0)
    content = make_content(make_target(units=200, truth=False))
    content = dataclasses.replace(content, unit_images=pictures(rng, content.unit_images, side=40))
    text, path = written(content)
    assert path.stat().st_size < 5e6
    assert "30 most helpful and the 30 most harmful of 200 units" in words(text)
    assert "20 most helpful and 20 most harmful of 200 units" in words(text)


def test_many_classes_are_cut_and_counted(written):
    classes = [f"class {c}" for c in range(110)]
    text = words(written(make_content(make_target(units=22, classes=classes, estimators=("ridge",))))[0])
    assert "Shown are the 100 of 110 classes" in text
    assert "Shown are the 60 of 110 classes" in text
    assert "90 more classes" in text


def test_figures_are_files_and_reproducible(tmp_path, content):
    paths = write_figures(tmp_path / "figures", content)
    names = ("influence", "ranking", "accuracy", "reliability")
    assert [p.name for p in paths] == [f"1_cifar10_32_fixed_{name}.{kind}" for name in names for kind in ("png", "svg")]
    before = [p.read_bytes() for p in paths]
    for path in paths[1::2]:
        drawing = ElementTree.parse(path).getroot()
        assert drawing.tag.endswith("}svg")
        assert len(["".join(text.itertext()) for text in drawing.iter("{http://www.w3.org/2000/svg}text")]) > 5
        assert b"date" not in path.read_bytes()
    for path in paths[::2]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 250
        assert len(np.unique(pixels.astype(np.int32) @ [1, 256, 65536])) > 50
    assert [p.read_bytes() for p in write_figures(tmp_path / "figures", content)] == before


def test_content_that_does_not_fit_is_refused(tmp_path, content):
    target = content.targets[0]
    short = dataclasses.replace(target, truth=dataclasses.replace(target.truth, kinds=("upright",)))
    with pytest.raises(UserError, match="1 kinds, but there are 30 units"):
        write_report(tmp_path / "report.html", make_content(short))
    empty = dataclasses.replace(target, estimators={})
    with pytest.raises(UserError, match="no estimator"):
        write_report(tmp_path / "report.html", dataclasses.replace(content, targets=(empty,)))
    assert list(tmp_path.iterdir()) == []
