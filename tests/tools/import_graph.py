"""The import graph by rooms: which folder of modules imports which, circles, and arrows that go upward.

    python tests/tools/import_graph.py [--root DIR]

A room is a package. A package that has packages in it is two rooms: its own modules that import one of those,
directly or through each other, are its entries (`pipeline (entries)`: the command line, re-exports), the rest
is its ground (`pipeline`), which the packages may stand on. A module that stands between its packages, on one
and below another, is a room of its own (`model.network`). An arrow goes upward where a layers contract of
`setup.cfg` puts the importing module below the imported one, or next to it as independent. Ours, on grimp.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple

import grimp

Arrows = dict[str, set[str]]
"""Importer → imported."""


class Law(NamedTuple):
    """One layers contract."""

    prefix: str
    """Of the names in `levels`, with its dot; empty for whole packages."""
    levels: dict[str, int]
    """Name → layer, counted from the top."""
    independent: set[int]
    """Layers whose members may not import each other."""

    def place(self, module: str) -> tuple[str, int] | None:
        """The member of the contract that holds a module, and its layer; None for modules outside of it."""
        if not module.startswith(self.prefix):
            return None
        name = module[len(self.prefix) :].split(".")[0]
        return (name, self.levels[name]) if name in self.levels else None


def main() -> int:
    """Print the graph; exit code 1 where there is a circle of rooms or an upward arrow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parents[2], help="the checkout to look at"
    )
    root = parser.parse_args().root
    config = ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    packages = config["importlinter"]["root_packages"].split()
    modules = module_arrows(root, packages)
    room_of = rooms(modules)
    arrows: dict[tuple[str, str], int] = {}
    for importer, imported in pairs(modules):
        pair = room_of[importer], room_of[imported]
        if pair[0] != pair[1]:
            arrows[pair] = arrows.get(pair, 0) + 1
    between: Arrows = {room: set() for room in room_of.values()}
    for importer, imported in arrows:
        between[importer].add(imported)

    print(f"rooms: {len(between)}")
    for room in sorted(between):
        inside = [module for module, place in room_of.items() if place == room]
        targets = ", ".join(f"{to} {arrows[room, to]}" for to in sorted(between[room]))
        print(f"  {room:32} {len(inside):3} modules  → {targets or '-'}")
    print(f"arrows between rooms: {len(arrows)} ({sum(arrows.values())} imports)")
    found = circles(between)
    print_list("circles of rooms", (" ↔ ".join(sorted(circle)) for circle in found))
    print_list("circles of modules", (" ↔ ".join(sorted(circle)) for circle in circles(modules)))
    upward = [f"{a} → {b}" for a, b in pairs(modules) if any(goes_up(law, a, b) for law in laws(config))]
    print_list("upward imports", upward)
    return 1 if found or upward else 0


def module_arrows(root: Path, packages: list[str]) -> Arrows:
    """Imports between the modules of the packages, those inside functions and for types alone included."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph(*packages, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}


def pairs(arrows: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows one by one."""
    return [(importer, imported) for importer in sorted(arrows) for imported in sorted(arrows[importer])]


def rooms(modules: Arrows) -> dict[str, str]:
    """Module → room."""
    packages = {module.rpartition(".")[0] for module in modules if "." in module}
    home = {module: module if module in packages else module.rpartition(".")[0] for module in modules}
    room_of = dict(home)
    for package in packages:
        own = {module for module, place in home.items() if place == package}
        inner = {module for module in modules if module.startswith(f"{package}.")} - own
        entries = {module for module in own if modules[module] & inner}
        while more := {module for module in own - entries if modules[module] & entries}:
            entries |= more
        room_of |= dict.fromkeys(entries, f"{package} (entries)")
        between = {module for module in entries if any(module in modules[other] for other in inner)}
        room_of |= {module: module for module in between}
    return room_of


def circles(arrows: Arrows) -> list[set[str]]:
    """The groups whose members all reach each other."""
    reach = {node: reachable(arrows, node) for node in arrows}
    found: list[set[str]] = []
    for node in sorted(arrows):
        circle = {other for other in reach[node] if node in reach[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def reachable(arrows: Arrows, start: str) -> set[str]:
    """All that `start` imports, directly or through others; itself only where it is in a circle."""
    seen: set[str] = set()
    waiting = list(arrows[start])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(arrows[node])
    return seen


def laws(config: ConfigParser) -> list[Law]:
    """The layers contracts of `setup.cfg`."""
    found = []
    for name in config.sections():
        section = config[name]
        if not name.startswith("importlinter:contract:") or section["type"] != "layers":
            continue
        lines = section["layers"].split("\n")
        layers = [line.strip() for line in lines if line.strip()]
        levels = {
            member.strip(" ()"): level
            for level, layer in enumerate(layers)
            for member in layer.replace("|", ":").split(":")
        }
        independent = {level for level, layer in enumerate(layers) if "|" in layer}
        containers = section.get("containers", "").split() or [""]
        found.extend(Law(f"{each}." if each else "", levels, independent) for each in containers)
    return found


def goes_up(law: Law, importer: str, imported: str) -> bool:
    """Whether the law forbids an import."""
    places = law.place(importer), law.place(imported)
    if places[0] is None or places[1] is None or places[0][0] == places[1][0]:
        return False
    above = places[0][1] > places[1][1]
    return above or (places[0][1] == places[1][1] and places[0][1] in law.independent)


def print_list(title: str, lines: Iterable[str]) -> None:
    """A count, and one line each."""
    lines = list(lines)
    print(f"{title}: {len(lines)}")
    for line in lines:
        print(f"  {line}")


if __name__ == "__main__":
    raise SystemExit(main())
