"""The documents say what the code does."""

import re
import sys
from pathlib import Path

from tingdao import errors
from tingdao.errors import TingdaoError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import document_settings  # noqa: E402  found by the line above


def test_settings_page_is_what_the_code_says():
    assert document_settings.TARGET.read_text(encoding="utf-8") == document_settings.render(), (
        "run python tools/document_settings.py"
    )


def concrete_errors():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TingdaoError)]
    return {kind for kind in kinds if "number" in vars(kind)}


def test_every_error_has_its_own_code_and_number():
    kinds = concrete_errors()
    assert len({kind.code for kind in kinds}) == len({kind.number for kind in kinds}) == len(kinds)
    assert all(kind.number // 100 == kind.status for kind in kinds)


def test_api_page_lists_every_error_with_its_status_and_number():
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \| (\d{5}) \|", page, re.MULTILINE))
    assert listed == {(str(kind.status), kind.code, str(kind.number)) for kind in concrete_errors()}


def test_links_between_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
