"""Contents and pages that the tests of this folder share."""

import numpy as np
import pytest
from report_examples import make_bias, make_case, make_content, make_counterfactual, make_suspects

from jdt.report import add_bias, add_cases, add_counterfactual, add_suspects, write_report


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Writes a content and returns its page as text, and the path."""

    def write(content):
        path = write_report(tmp_path_factory.mktemp("run") / "report.html", content)
        return path.read_text("utf-8"), path

    return write


@pytest.fixture(scope="session")
def content():
    """30 units x 10 classes, two estimators, planted truth."""
    return make_content()


@pytest.fixture(scope="session")
def page(written, content):
    return written(content)


@pytest.fixture(scope="session")
def study(tmp_path_factory, content):
    """A folder with the page of the influences and sections of all kinds."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    write_report(folder / "report.html", content)
    add_bias(folder, make_bias())
    add_counterfactual(folder, [make_counterfactual()])
    add_cases(folder, [make_case(rng), make_case(rng, "failure", "image 17", note="taken for dog")], text="Two cases.")
    add_suspects(folder, [make_suspects(rng)])
    return folder
