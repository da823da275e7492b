"""The command that measures the prose of README and the guide, on pages made for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("prose.py")


def printed(folder: Path, text: str, page: str = "docs/page.md") -> tuple[int, list[str]]:
    """Exit code and lines of the command over one page."""
    path = folder / page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--root", str(folder)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def words(number: int) -> str:
    """So many words."""
    return " ".join(["word"] * number)


def test_a_page_of_short_sentences_passes(tmp_path: Path) -> None:
    text = f"# Title\n\n{words(40)}.\nShort one. Another one!\n\n- {words(40)}\n- Last.\n"
    assert printed(tmp_path, text) == (0, ["prose: 1 pages, 0 faults"])


def test_a_long_sentence_fails_with_the_line_on_which_it_begins(tmp_path: Path) -> None:
    long = f"Here {words(20)}\n{words(20)}"
    code, lines = printed(tmp_path, f"# Title\n\n\nOne is short. Two\nis as well. {long}.\n")
    assert code == 1
    assert lines == [
        f"docs/page.md:5: 41 words, at most 40: {' '.join(long.split())}.",
        "prose: 1 pages, 1 faults",
    ]


@pytest.mark.parametrize("end", [";", ":", ",", " e.g.", " (Ristani et al. 2016)"])
def test_only_a_full_stop_ends_a_sentence(tmp_path: Path, end: str) -> None:
    code, lines = printed(tmp_path, f"{words(25)}{end} {words(25)}.\n")
    assert code == 1
    assert lines[0].startswith("docs/page.md:1: 5")


def test_the_average_of_a_page_is_bounded_too(tmp_path: Path) -> None:
    code, lines = printed(tmp_path, f"{words(30)}.\n\n{words(24)}.\n")
    assert code == 1
    assert lines[0] == "docs/page.md:1: 27.0 words a sentence on average, at most 25"


@pytest.mark.parametrize(
    "text",
    [
        f"# {words(41)}\n\nText.",
        f"```sh\n{words(41)}\n```\n\nText.",
        f"~~~\n```\n{words(41)}\n~~~\n\nText.",
        f"Write `{words(41)}`.",
        f"Write `{words(20)}\n{words(20)}`.",
        f"![{words(41)}](picture.jpg)",
        f"Short. {words(39)} [end](https://example.com/1/2/3/4/5/6).",
        "Of `1, 2, 3, 4, 5` one counts, at T = 3 on 192×320.",
        f"Short.\n\n1. {words(40)}\n2. {words(20)}",
        f"| {words(40)} | {words(40)} | 1 2 3 4 5 6 |",
    ],
)
def test_what_is_no_sentence_counts_for_nothing(tmp_path: Path, text: str) -> None:
    assert printed(tmp_path, text + "\n")[1] == ["prose: 1 pages, 0 faults"]


def test_cells_of_tables_may_not_be_long(tmp_path: Path) -> None:
    code, lines = printed(tmp_path, f"| a | b |\n| --- | --- |\n| c | {words(41)} |\n")
    assert code == 1
    assert lines[0].startswith("docs/page.md:3: 41 words, at most 40")


def test_nine_numbers_belong_into_a_table(tmp_path: Path) -> None:
    code, lines = printed(
        tmp_path, "It takes 1 to 2.5 s, 3,000 frames and 4 ms.\n\nIt takes 1, 2, 3, 4, 5, 6, 7, 8 or 9 s.\n"
    )
    assert code == 1
    assert lines[0].startswith("docs/page.md:3: 9 numbers, at most 8")
    assert len(lines) == 2


def test_phrases_of_another_century_are_named_with_what_to_write(tmp_path: Path) -> None:
    text = "Besides, it is wanted.\n\nIt fails for want\nof memory. Beside it stands `whoever`.\n"
    code, lines = printed(tmp_path, text, page="README.md")
    assert code == 1
    assert lines == [
        "README.md:3: 'want of' (write: lack of, too little): It fails for want of memory.",
        "README.md:4: 'beside' (write: next to, besides, with): Beside it stands code.",
        "prose: 1 pages, 2 faults",
    ]


def test_pages_that_are_not_of_the_guide_are_not_read(tmp_path: Path) -> None:
    assert printed(tmp_path, f"{words(41)}.\n", page="tests/notes.md") == (0, ["prose: 0 pages, 0 faults"])
