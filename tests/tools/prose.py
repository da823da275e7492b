"""Measures how plain README, CONTRIBUTING and docs/ read: length of sentences, numbers, banned phrases.

    python tests/tools/prose.py [--root DIR]

A sentence ends at a full stop, question mark or exclamation mark, or where its paragraph, list item or
table cell ends. A semicolon or a colon does not end one. A word is what stands between blanks and has a
letter or digit in it.

| part of a page | counts as |
| --- | --- |
| headings, code blocks, pictures, addresses of links | nothing |
| inline code | one word and no number |
| text of a link | its words |
| cells of tables | sentences with a limit, but neither for the average nor for numbers |

Ours. A phrase is banned only where no good sentence needs it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md")
MAX_AVERAGE_WORDS = 25
MAX_WORDS = 40
MAX_NUMBERS = 8
"""In a sentence outside of a table."""

BANNED = {
    "beside": "next to, besides, with",
    "whoever": "who, those who",
    "want of": "lack of, too little",
    "anew": "again",
    "thereof": "of it",
    "wherein": "in which",
    "for nobody": "are ignored",
    "can be had": "is available",
    "cannot be had": "is not available",
    "to the bit": "bit for bit",
}
"""Phrase → what to write. Whole words, in any case."""

BANNED_PATTERN = re.compile(rf"\b({'|'.join(BANNED)})\b".replace(" ", r"\s+"), re.IGNORECASE)
FENCE = re.compile(r" *(```|~~~)")
ITEM = re.compile(r" *([-*+]|\d+[.)]) +")
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
PICTURE = re.compile(r"!\[[^]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
SENTENCE_END = re.compile(r"[.!?][)\"*_”’]*(?=\s)")
ABBREVIATION = re.compile(r"(\be\.g|\bi\.e|\bal|\bvs|\bcf|\bNo|\bFig|\bSec)\.$")
NUMBER = re.compile(r"(?<![\w.])\d[\d.,]*")


class Block(NamedTuple):
    """A paragraph, a list item or the cell of a table."""

    line: int
    text: str
    cell: bool


class Sentence(NamedTuple):
    """What is measured."""

    line: int
    text: str
    num_words: int
    cell: bool


def main() -> int:
    """Print every fault with file, line, count and sentence; exit code 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the checkout to read")
    root = parser.parse_args().root
    pages = sorted({page for pattern in PAGES for page in root.glob(pattern)})
    faults = [
        f"{page.relative_to(root)}:{fault}"
        for page in pages
        for fault in page_faults(page.read_text("utf-8"))
    ]
    for line in [*faults, f"prose: {len(pages)} pages, {len(faults)} faults"]:
        print(line)
    return 1 if faults else 0


def page_faults(text: str) -> list[str]:
    """The faults of a page, `line: what is wrong: the sentence`."""
    sentences = [sentence for block in blocks(text) for sentence in split(block)]
    faults = [
        f"{sentence.line}: {fault}: {sentence.text}"
        for sentence in sentences
        for fault in faults_of(sentence)
    ]
    lengths = [sentence.num_words for sentence in sentences if not sentence.cell]
    if lengths and sum(lengths) > MAX_AVERAGE_WORDS * len(lengths):
        average = sum(lengths) / len(lengths)
        faults.append(f"1: {average:.1f} words a sentence on average, at most {MAX_AVERAGE_WORDS}")
    return faults


def faults_of(sentence: Sentence) -> Iterator[str]:
    """What is wrong with one sentence."""
    if sentence.num_words > MAX_WORDS:
        yield f"{sentence.num_words} words, at most {MAX_WORDS}"
    numbers = len(NUMBER.findall(sentence.text))
    if numbers > MAX_NUMBERS and not sentence.cell:
        yield f"{numbers} numbers, at most {MAX_NUMBERS} (put them into a table)"
    for phrase in BANNED_PATTERN.findall(sentence.text):
        phrase = " ".join(phrase.lower().split())
        yield f"'{phrase}' (write: {BANNED[phrase]})"


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a Markdown page that hold sentences, in their order."""
    lines: list[str] = []
    start, fence = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        mark = FENCE.match(line)
        item = ITEM.match(line)
        if fence or mark:
            fence = "" if fence and mark and mark[1] == fence else fence or (mark[1] if mark else "")
            line = ""
        table = line.lstrip().startswith("|")
        if not line.strip() or table or item or line.startswith("#"):
            if lines:
                yield Block(start, plain("\n".join(lines)), cell=False)
            lines = []
        if table:
            yield from (Block(number, cell, cell=True) for cell in plain(line).replace(r"\|", "/").split("|"))
        elif line.strip() and not line.startswith("#"):
            start = start if lines else number
            lines.append(line[item.end() :] if item else line)


def plain(text: str) -> str:
    """The text as it is read, with inline code as one word; it keeps its line breaks."""
    text = CODE.sub(lambda code: "code" + "\n" * code[2].count("\n"), text)
    text = PICTURE.sub("", text)
    return LINK.sub(r"\1", text)


def split(block: Block) -> Iterator[Sentence]:
    """The sentences of a block."""
    start = 0
    ends = [match.end() for match in SENTENCE_END.finditer(block.text)]
    for end in [*ends, len(block.text)]:
        piece = block.text[start:end]
        if end < len(block.text) and ABBREVIATION.search(piece):
            continue
        before = block.text[: start + len(piece) - len(piece.lstrip())]
        words = piece.split()
        num_words = sum(any(character.isalnum() for character in word) for word in words)
        if num_words:
            yield Sentence(block.line + before.count("\n"), " ".join(words), num_words, block.cell)
        start = end


if __name__ == "__main__":
    raise SystemExit(main())
