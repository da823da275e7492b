"""Seeded mutations of texts: what a slip of the hand, a bad disk or an enemy makes of a config."""

from __future__ import annotations

import random
import re

NASTY = (
    "1.0e+308",
    "-1.0e+308",
    "1.0e-308",
    ".inf",
    "-.inf",
    ".nan",
    "99999999999999999999999999",
    "-1",
    "0",
    "''",
    '"\\0"',
    '"\\ud800"',
    "~",
    "true",
    "[]",
    "{}",
    "[[[[]]]]",
    "{a: {b: {c: 1}}}",
    "2001-01-01",
    "!!binary aGVsbG8=",
    "!!python/object/apply:os.system ['true']",
    "&a [*a]",
    "*nothing",
    "cuda:99999999999",
    "cpu ",
    "rtsp://user:pass@[::1",
    "http://",
    "file:///etc",
    "../../..",
    "%s%n{0}{source}",
    "x" * 5000,
    "[" * 500,
    "{a: " * 400,
    "- - - -",
    "a: b: c",
    "\t",
    "é中\u202e",
    "0x1F",
    "1_000",
    "012",
    "1:30",
    "yes",
)


def mutated(text: str, chance: random.Random) -> str:
    """The text with one to three mutations: values, lines, indents or single characters."""
    for _ in range(chance.randint(1, 3)):
        text = chance.choice(_MUTATIONS)(text, chance)
    return text


def _value(text: str, chance: random.Random) -> str:
    """Another value after one of the keys."""
    places = list(re.finditer(r"(?m)^(\s*[\w.]+:[ ]*)(.*)$", text))
    if not places:
        return chance.choice(NASTY)
    place = chance.choice(places)
    return text[: place.start(2)] + chance.choice(NASTY) + text[place.end(2) :]


def _line(text: str, chance: random.Random) -> str:
    """A line that is gone, twice or somewhere else."""
    lines = text.split("\n")
    line = lines.pop(chance.randrange(len(lines)))
    for _ in range(chance.choice((0, 1, 2))):
        lines.insert(chance.randint(0, len(lines)), line)
    return "\n".join(lines)


def _indent(text: str, chance: random.Random) -> str:
    """A line that is moved in or out."""
    lines = text.split("\n")
    at = chance.randrange(len(lines))
    lines[at] = lines[at].strip() if chance.random() < 0.5 else " " * chance.randint(1, 5) + lines[at]
    return "\n".join(lines)


def _character(text: str, chance: random.Random) -> str:
    """A character that is gone or another."""
    if not text:
        return text
    at = chance.randrange(len(text))
    other = chance.choice(("", "\0", "\ud800", ":", "#", "{", "]", "'", "*", "&", "|", "%", "@", "\x1b", "9"))
    return text[:at] + other + text[at + 1 :]


_MUTATIONS = (_value, _value, _line, _indent, _character)
