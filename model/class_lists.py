"""The class lists and the one place where an output index of the network becomes a category.

Source of the names and ids: the category tables of YouTube-VIS 2019 and 2021, OVIS and COCO. What
differs: "object", one class-agnostic category, "coco_and_object", COCO's names and one for what moves and has
none of them, and "sprites", the shapes of the rendered set of that name (some told apart by motion alone),
are ours.

Two layouts of the class head exist, and confusing them shifts every label by one:

    dense    num_outputs == number of classes: output i is the i-th category (id − 1 for ids 1..n)
    by id    num_outputs > largest id: output i is the category with id i, the other outputs mean nothing
             (published SeqFormer: 42 outputs, ids 1..40 used, outputs 0 and 41 unused)

Dimensions: K outputs of the class head.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from model.errors import did_you_mean

ClassListName = Literal[
    "object", "youtube_vis_2019", "youtube_vis_2021", "ovis", "coco", "coco_and_object", "sprites"
]


@dataclass(frozen=True)
class Category:
    """One thing the network can name.

    id: the data set's category id, as written in its annotation and result files.
    name: the data set's name in lower case, words separated by underscores.
    """

    id: int
    name: str


def _numbered(names: str) -> tuple[Category, ...]:
    return tuple(Category(index, name) for index, name in enumerate(names.split(), start=1))


_YOUTUBE_VIS_2019 = """
person giant_panda lizard parrot skateboard sedan ape dog snake monkey hand rabbit duck cat cow fish train
horse turtle bear motorbike giraffe leopard fox deer owl surfboard airplane truck zebra tiger elephant
snowboard boat shark mouse frog eagle earless_seal tennis_racket
"""

_YOUTUBE_VIS_2021 = """
airplane bear bird boat car cat cow deer dog duck earless_seal elephant fish flying_disc fox frog
giant_panda giraffe horse leopard lizard monkey motorbike mouse parrot person rabbit shark skateboard
snake snowboard squirrel surfboard tennis_racket tiger train truck turtle whale zebra
"""

_OVIS = """
person bird cat dog horse sheep cow elephant bear zebra giraffe poultry giant_panda lizard parrot monkey
rabbit tiger fish turtle bicycle motorcycle airplane boat vehicle
"""

# COCO's ids have gaps (12, 26, 29, 30, 45, 66, 68, 69, 71 and 83 were never released): "-" holds
# their places.
_COCO = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack umbrella - -
handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard
surfboard tennis_racket bottle - wine_glass cup fork knife spoon bowl banana apple sandwich orange
broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed - dining_table - - toilet - tv
laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator - book clock vase
scissors teddy_bear hair_drier toothbrush
"""

_SPRITES = """
triangle square star cross ring crescent gliding_disc swinging_disc spinning_propeller rocking_propeller
"""

_COCO_CATEGORIES = tuple(category for category in _numbered(_COCO) if category.name != "-")

CLASS_LISTS: dict[str, tuple[Category, ...]] = {
    "object": _numbered("object"),
    "youtube_vis_2019": _numbered(_YOUTUBE_VIS_2019),
    "youtube_vis_2021": _numbered(_YOUTUBE_VIS_2021),
    "ovis": _numbered(_OVIS),
    "coco": _COCO_CATEGORIES,
    "coco_and_object": (*_COCO_CATEGORIES, Category(91, "object")),
    "sprites": _numbered(_SPRITES),
}


# What a camera is usually asked for: people, what they ride in and on, and COCO's animals.
_WATCHED = """
person bicycle car motorcycle bus train truck boat airplane
bird cat dog horse sheep cow elephant bear zebra giraffe
"""

RECOMMENDED: dict[str, tuple[str, ...]] = {
    "coco": tuple(_WATCHED.split()),
    "coco_and_object": (*_WATCHED.split(), "object"),
}
"""The names that a stream watches for unless told otherwise; of lists that are not here, all."""


UNNAMED: dict[str, str] = {"coco_and_object": "object"}
"""Of a list with names: the name of what is none of them and moves."""


def categories(class_list: str) -> tuple[Category, ...]:
    """The categories of a list, by rising id.

    Raises ValueError for an unknown list.
    """
    if class_list not in CLASS_LISTS:
        raise ValueError(f"unknown class list {class_list!r}; known: {', '.join(get_args(ClassListName))}")
    return CLASS_LISTS[class_list]


def output_categories(class_list: str, num_outputs: int) -> tuple[Category | None, ...]:
    """The category of every output of the class head, None where an output is unused; length num_outputs.

    Raises ValueError where num_outputs fits neither layout (see the module's text).
    """
    known = categories(class_list)
    if num_outputs == len(known):
        return known
    largest = known[-1].id
    if num_outputs > largest:
        by_id = {category.id: category for category in known}
        return tuple(by_id.get(index) for index in range(num_outputs))
    raise ValueError(
        f"num_outputs={num_outputs} does not fit class list {class_list!r}: "
        f"use {len(known)} (one output per class) or at least {largest + 1} (output index = category id)"
    )


def used_outputs(class_list: str, num_outputs: int) -> tuple[int, ...]:
    """The output indices that stand for a category, rising; the others must never win."""
    table = output_categories(class_list, num_outputs)
    return tuple(index for index, category in enumerate(table) if category is not None)


def chosen_outputs(class_list: str, num_outputs: int, names: Sequence[str] | None = None) -> tuple[int, ...]:
    """The outputs that stand for the categories of these names, rising; None: what the list recommends.

    Raises ValueError for a name that the list does not have, with the nearest one, for one that is given
    twice and for no name at all.
    """
    table = output_categories(class_list, num_outputs)
    outputs = {category.name: index for index, category in enumerate(table) if category is not None}
    if names is None:
        names = RECOMMENDED.get(class_list, tuple(outputs))
    if not names:
        raise ValueError("no class is named: nothing would ever be found")
    for name in names:
        if name not in outputs:
            raise ValueError(unknown_class(name, outputs, which=f"of class list {class_list!r}"))
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is named twice")
    return tuple(sorted(outputs[name] for name in names))


def unknown_class(name: str, known: Collection[str], *, which: str) -> str:
    """A sentence that says that `known` lacks a name, which is nearest, and which there are."""
    question = did_you_mean(name.lower().replace(" ", "_"), known, cutoff=0.0)
    return f"{name!r} is no class {which}: {question} There are {', '.join(known)}"
