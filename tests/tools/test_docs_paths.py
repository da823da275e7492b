"""What README and docs/ name is there: files of the repository, pages and headings that links go to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILE = re.compile(
    r"`((?:pipeline|model|ops|configs|tests|docs)/[\w./-]*\w\.(?:py|md|cpp|cu|json|yaml|toml|npz))`"
)
LINK = re.compile(r"(?<!!)\[[^]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
PLAIN = re.compile(r"(?<![\w/(])docs/[\w/.-]+\.md\b")


def anchor(heading: str) -> str:
    """A heading's address on a page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_links_of_a_page_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {*FILE.findall(text), *PLAIN.findall(text)}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    for target, place in LINK.findall(text):
        goal = (page.parent / target).resolve() if target else page
        if not goal.exists():
            missing.append(target)
        elif place and goal.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", goal.read_text(encoding="utf-8"), re.MULTILINE)
            if place not in map(anchor, headings):
                missing.append(f"{target}#{place}")
    assert not missing
