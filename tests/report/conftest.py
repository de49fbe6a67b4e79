"""Contents and pages that the tests of this folder share."""

import pytest
from report_examples import make_content

from jdt.report import write_report


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
