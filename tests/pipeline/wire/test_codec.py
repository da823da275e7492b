"""The wire format: golden messages both ways, and bytes that are none."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from pycocotools import mask as coco
from support.results import ellipse, make_instance, make_result

from pipeline.errors import MessageError, WireVersionError
from pipeline.types import Instance, MaskMessage
from pipeline.wire.codec import StreamFacts, decode, encode, mask_message, parse_topic
from pipeline.wire.columns import COLUMNS, MOVED
from pipeline.wire.message_json import INSTANCE_KEYS, KEYS, from_json, to_json
from pipeline.wire.messages import WIRE_VERSION, topic

GOLDEN_FOLDER = Path(__file__).parents[2] / "golden" / "wire"
GOLDEN = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(GOLDEN_FOLDER.glob("*.json"))}
MASKS = {name: golden for name, golden in GOLDEN.items() if golden["kind"] == "masks"}
FACTS = StreamFacts("net", "list", {1: "person"}, trained=False)


def parts_of(golden: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(part) for part in golden["parts"]]


def names_of(golden: dict[str, Any]) -> dict[str, dict[int, str]]:
    return {
        each: {int(number): name for number, name in names.items()}
        for each, names in golden.get("class_names", {}).items()
    }


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (tuple, list)) else value


def repack(parts: list[bytes], index: int, **changes: Any) -> list[bytes]:
    """Return the parts with keys of a msgpack part changed; `...` removes a key."""
    values = {**msgpack.unpackb(parts[index]), **changes}
    packed = msgpack.packb({key: value for key, value in values.items() if value is not ...})
    return [*parts[:index], packed, *parts[index + 1 :]]


def example(**changes: Any) -> MaskMessage:
    person = make_instance(ellipse(64, 96, (40, 30), (20, 10)))
    gone = make_instance(None, track_id=2, state="lost")
    message = mask_message(
        make_result(3, instances=[person, gone]),
        facts=FACTS,
        producer="me",
        boot="b" * 16,
        seq=7,
        published_ns=5,
        dropped={"stale": 1},
    )
    return dataclasses.replace(message, **changes)


def decoded_rows(parts: list[bytes]) -> tuple[Instance, ...]:
    message = decode(parts)
    assert isinstance(message, MaskMessage)
    return message.instances


def test_the_golden_folder_holds_every_kind() -> None:
    assert {golden["kind"] for golden in GOLDEN.values()} == {"masks", "event", "heartbeat", "end"}
    assert WIRE_VERSION == (1, 1)
    versions = {tuple(golden["expected_fields"]["wire_version"]) for name, golden in MASKS.items()}
    assert versions == {(1, 0), (1, 1), (1, 7)}


def twin_of(golden: dict[str, Any]) -> dict[str, Any]:
    """What a golden message must decode to here: those of before version 1.1 do not say what has moved,
    nor which picture was damaged."""
    rows = [{"moved": None, **each} for each in golden["expected"]["instances"]]
    return {"damaged": False, **golden["expected"], "instances": rows}


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("masks")])
def test_golden_masks_decode_to_the_json_twin(name: str) -> None:
    golden = GOLDEN[name]
    message = decode(parts_of(golden), class_names=names_of(golden))
    assert isinstance(message, MaskMessage)
    twin = to_json(message)
    assert twin == twin_of(golden)
    assert tuple(twin) == KEYS
    assert json.loads(json.dumps(twin)) == twin
    for instance in twin["instances"]:
        assert tuple(instance) == INSTANCE_KEYS
    for key, value in golden["expected_fields"].items():
        assert plain(getattr(message, key)) == value, key


@pytest.mark.parametrize("name", [name for name in GOLDEN if not name.startswith("masks")])
def test_golden_control_messages_decode(name: str) -> None:
    assert plain(decode(parts_of(GOLDEN[name]))) == GOLDEN[name]["expected"]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "masks_later_minor"])
def test_encoding_a_decoded_golden_message_gives_its_bytes(name: str) -> None:
    parts = parts_of(GOLDEN[name])
    again = encode(decode(parts))
    assert [again[0], *again[2:]] == [parts[0], *parts[2:]]
    assert msgpack.unpackb(again[1]) == msgpack.unpackb(parts[1])


HEADER_KEYS = {
    "masks": "v producer boot seq published_ns epoch frame pts time_base captured_ns clock_ns clock_quality "
    "width height rotation model classes trained window revision final held dropped encoding",
    "event": "v producer boot seq published_ns state model classes class_names trained kind url fps width "
    "height",
    "heartbeat": "v producer boot seq published_ns state dropped",
    "heartbeat_ended": "v producer boot seq published_ns state dropped reason detail",
    "masks_damaged": "v producer boot seq published_ns epoch frame pts time_base captured_ns clock_ns "
    "clock_quality width height rotation model classes trained window revision final held dropped encoding "
    "damaged",
    "event_health": "v producer boot seq published_ns state model classes class_names trained kind url fps "
    "width height health",
    "heartbeat_health": "v producer boot seq published_ns state dropped last_result_age_ms read published "
    "reconnects packet_errors damaged health",
    "end": "v producer boot seq published_ns reason detail dropped",
}


@pytest.mark.parametrize("name", HEADER_KEYS)
def test_the_keys_of_version_1_are_frozen_and_documented(name: str) -> None:
    parts = encode(decode(parts_of(GOLDEN[name])))
    keys = set(msgpack.unpackb(parts[1]))
    assert keys == set(HEADER_KEYS[name].split())
    columns = {"n", *COLUMNS}
    if name == "masks":
        assert set(msgpack.unpackb(parts[2])) == columns
        later = encode(decode(parts_of(GOLDEN["masks_moved"])))
        assert set(msgpack.unpackb(later[1])) == keys
        columns.add("moved")
        assert set(msgpack.unpackb(later[2])) == columns
    page = (GOLDEN_FOLDER.parents[2] / "docs" / "wire.md").read_text("utf-8")
    section = page[page.index(f"## `{GOLDEN[name]['kind']}`") :]
    common = page[page.index("## Keys of every header") : page.index("## `masks`: header")]
    for key in keys | (columns if name == "masks" else set()):
        assert f"`{key}`" in common + section, key
    for key in (*KEYS, *INSTANCE_KEYS):
        assert f"`{key}`" in page[page.index("## JSON twin") :], key


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("masks")])
def test_a_recorded_line_gives_the_message_back(name: str) -> None:
    message = from_json(json.loads(json.dumps(GOLDEN[name]["expected"])))
    assert to_json(message) == twin_of(GOLDEN[name])
    sent = decode(parts_of(GOLDEN[name]))
    assert isinstance(sent, MaskMessage)
    np.testing.assert_array_equal(message.masks, sent.masks)


def test_damaged_recorded_lines_are_message_errors() -> None:
    generator = random.Random(0)
    junk: list[Any] = [
        None,
        -1,
        1e99,
        "",
        "x",
        [],
        {},
        [1],
        {"size": [48, 64], "counts": "zz"},
        True,
        2**2000,
    ]
    text = json.dumps(GOLDEN["masks"]["expected"])
    refused = 0
    for _ in range(3000):
        line = json.loads(text)
        target = generator.choice([line, *line["instances"]])
        target[generator.choice(list(target))] = generator.choice(junk)
        try:
            to_json(from_json(line))
        except MessageError:
            refused += 1
    assert refused > 1500
    for junk_line in junk:
        with pytest.raises(MessageError):
            from_json(junk_line)


def test_keys_of_a_later_minor_version_survive_in_extra() -> None:
    message = decode(parts_of(GOLDEN["masks_later_minor"]))
    assert isinstance(message, MaskMessage)
    assert message.wire_version == (1, 7)
    assert message.extra == {"lens": {"k": [0.5, 1.5]}}
    assert decode(encode(message)) == message


def test_whether_a_track_has_moved_survives_the_way_over_the_wire_and_is_absent_before_version_1_1() -> None:
    rows = [
        dataclasses.replace(example().instances[0], track_id=number, moved=moved)
        for number, moved in enumerate((True, False, None))
    ]
    message = example(instances=tuple(rows))
    assert message.wire_version == (1, 1)
    assert [each.moved for each in decoded_rows(encode(message))] == [True, False, None]
    parts = encode(dataclasses.replace(message, wire_version=(1, 0)))
    assert MOVED not in msgpack.unpackb(parts[2])
    assert [each.moved for each in decoded_rows(parts)] == [None, None, None]
    # Who reads version 1.0 looks for the columns that it knows; they are where they were.
    known = msgpack.unpackb(encode(message)[2])
    assert {key: value for key, value in known.items() if key != MOVED} == msgpack.unpackb(parts[2])


def test_dense_masks_are_the_pixels_that_the_json_twin_holds() -> None:
    golden = GOLDEN["masks"]
    message = decode(parts_of(golden))
    assert isinstance(message, MaskMessage)
    for dense, instance in zip(message.masks, golden["expected"]["instances"], strict=True):
        expected = 0 if instance["rle"] is None else coco.decode(instance["rle"])
        np.testing.assert_array_equal(dense, expected)


def test_a_result_survives_the_way_over_the_wire() -> None:
    message = example()
    again = decode(encode(message), class_names={"list": {1: "person"}})
    assert isinstance(again, MaskMessage)
    assert again.instances[0].score == pytest.approx(message.instances[0].score, abs=1e-7)
    rounded = [
        dataclasses.replace(new, score=old.score)
        for new, old in zip(again.instances, message.instances, strict=True)
    ]
    assert dataclasses.replace(again, instances=tuple(rounded)) == message


def test_a_box_without_a_mask_survives_the_way_over_the_wire() -> None:
    """Of a model without masks; the JSON twin has it, too."""
    boxed = dataclasses.replace(example().instances[0], mask=None, box_xyxy=(3, 4, 30, 20))
    again = decode(encode(example(instances=(boxed,))), class_names={"list": {1: "person"}})
    assert isinstance(again, MaskMessage)
    (instance,) = again.instances
    assert (instance.box_xyxy, instance.mask, instance.state) == ((3, 4, 30, 20), None, boxed.state)
    assert instance.visible
    (twin,) = from_json(to_json(again)).instances
    assert (twin.box_xyxy, twin.mask) == (instance.box_xyxy, None)


def test_a_message_is_small() -> None:
    instances = [
        make_instance(ellipse(720, 1280, (100 * i + 90, 360), (80, 200)), track_id=i) for i in range(10)
    ]
    image = np.zeros((720, 1280, 3), np.uint8)
    message = mask_message(
        make_result(image=image, instances=instances),
        facts=FACTS,
        producer="p",
        boot="b",
        seq=0,
        published_ns=0,
        dropped={},
    )
    assert sum(len(part) for part in encode(message)) < 10_000  # 9 MB as dense masks


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"box_xyxy": (0, 0, 5, 5)}, "not the mask's crop"),
        ({"box_xyxy": (0, 0, 97, 5)}, "not inside 96×64"),
        ({"state": "lost"}, "carry no mask"),
    ],
)
def test_an_instance_that_breaks_the_rules_is_not_sent(change: dict[str, Any], reason: str) -> None:
    message = example()
    broken = dataclasses.replace(message.instances[0], **change)
    with pytest.raises(ValueError, match=reason):
        encode(dataclasses.replace(message, instances=(broken,)))


@pytest.mark.parametrize("size", [{"width": 32768}, {"height": 40000}])
def test_a_frame_that_no_box_can_tell_is_not_sent(size: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at most 32767 a side"):
        encode(dataclasses.replace(example(), **size))


HEADER_FAULTS = {
    "seq": [-1, "1", 1.0, True, None, 2**63, ...],
    "v": [[1], 1, [1, "0"], [1, 0, 0], ...],
    "producer": [1, None, "x" * 300],
    "width": [0, 40000, None],
    "height": [0, -1],
    "rotation": [45, "90"],
    "time_base": [[1, 0], [0, 1], [1], None, [1.5, 2]],
    "window": [[5, 4], [-1, 0], [0]],
    "pts": ["0", 1.5, 2**63],
    "final": [1, None],
    "dropped": [[], {"a": -1}, {"a": "x"}, {"a": True}, {str(number): 0 for number in range(100)}],
    "encoding": ["png", None],
    "trained": ["yes"],
    "clock_ns": ["x"],
}
ROW_FAULTS: dict[str, list[Any]] = {
    "n": [4, 6, -1, 2**31, "5", ...],
    "id": [b"", b"\xff" * 20, None, ...],
    "score": [np.full(5, value, "<f4").tobytes() for value in (np.nan, np.inf, 1.5, -0.1)],
    "box": [np.full((5, 4), 100, "<i2").tobytes(), np.tile(np.int16([5, 5, 2, 2]), (5, 1)).tobytes()],
    "state": [b"\x04" * 5, b"\x02" * 5],
    "merged": [np.full(5, -2, "<i4").tobytes()],
    "offset": [np.full(5, 2**32 - 1, "<u4").tobytes()],
    "moved": [b"\x03" * 5, b"\0" * 4, [False] * 5],
    "length": [np.full(5, 2**32 - 1, "<u4").tobytes(), np.full(5, 150, "<u4").tobytes()],
    "class": [b"\0", "text"],
}


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [(1, key, value) for key, values in HEADER_FAULTS.items() for value in values]
    + [(2, key, value) for key, values in ROW_FAULTS.items() for value in values],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_a_value_of_wrong_type_or_range_is_a_message_error(part: int, key: str, value: Any) -> None:
    with pytest.raises(MessageError, match=key if part == 1 else "instances"):
        decode(repack(parts_of(GOLDEN["masks"]), part, **{key: value}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("event", {"class_names": [[1]]}),
        ("event", {"class_names": {"1": "x"}}),
        ("event", {"class_names": [["1", "x"]]}),
        ("event", {"state": "asleep"}),
        ("event", {"state": ["live"]}),
        ("event", {"fps": float("nan")}),
        ("event", {"fps": "25"}),
        ("event", {"state": "ended"}),
        ("heartbeat", {"state": None}),
        ("heartbeat_ended", {"reason": "bored"}),
        ("end", {"reason": ...}),
        ("end", {"detail": "x" * 5000}),
    ],
)
def test_a_control_message_with_a_wrong_value_is_a_message_error(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        decode(repack(parts_of(GOLDEN[name]), 1, **changes))


@pytest.mark.parametrize("counts", [b"\xff\xfe", b"0", b"11111", b"o" * 30, b"5PPPPPPPPPPPPP", b"Z"])
def test_run_lengths_that_are_none_are_a_message_error(counts: bytes) -> None:
    parts = parts_of(GOLDEN["masks_held"])
    broken = repack(parts, 2, length=np.array([len(counts)], "<u4").tobytes())
    with pytest.raises(MessageError, match="counts"):
        decode([*broken[:3], counts])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"\xff\xfe"],
        [b"vis1/masks/cam/"],
        [b"vis1/masks/cam/", b"\x80"],
        [b"vis1/end/cam/", b""],
        [b"vis1/end/cam/", b"\x01"],
        [b"vis1/end/cam/", b"\x81\x01\x02"],
        [b"vis1/end/cam/", b"\xc1"],
        [b"vis1/end/cam/", b"\x91" * 2000],
        [b"vis1/end/cam/", b"\xdd\xff\xff\xff\xff"],
        [b"vis1/end/cam/", b"\x80"],
        [b"vis1/end/../", b"\x80"],
        [b"vis1/end/cam", b"\x80"],
        [b"vis1/gossip/cam/", b"\x80"],
        [b"vis1/end/c m/", b"\x80"],
        [b"GET / HTTP/1.1", b"\x80"],
    ],
)
def test_bytes_that_are_no_message_are_a_message_error(parts: list[bytes]) -> None:
    with pytest.raises(MessageError):
        decode(parts)


def test_another_major_version_is_named_in_topic_and_header() -> None:
    parts = parts_of(GOLDEN["masks"])
    with pytest.raises(WireVersionError, match=r"version 2.*version 1.*same mssts-stream release"):
        decode([b"vis2/masks/cam-1/", *parts[1:]])
    with pytest.raises(WireVersionError, match="version 3"):
        decode(repack(parts, 1, v=[3, 0]))
    with pytest.raises(WireVersionError, match="version 12"):
        parse_topic(b"vis12/anything")


def test_topics_end_in_a_slash_so_that_one_source_is_no_prefix_of_another() -> None:
    assert topic("masks", "cam1") == b"vis1/masks/cam1/"
    assert not topic("masks", "cam10").startswith(topic("masks", "cam1"))
    assert parse_topic(b"vis1/masks/cam1/") == ("masks", "cam1")


def damage(parts: list[bytes], generator: random.Random) -> list[bytes]:
    """Return the parts with random damage in one or several of them."""
    damaged = list(parts)
    for _ in range(generator.choice([1, 1, 1, 2, 5])):
        index = generator.randrange(len(damaged))
        data = bytearray(damaged[index])
        action = generator.randrange(6)
        if action == 0 and data:
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        elif action == 1:
            data = data[: generator.randrange(len(data) + 1)]
        elif action == 2:
            data = bytearray(generator.randbytes(generator.randrange(64)))
        elif action == 3:
            position = generator.randrange(len(data) + 1)
            data[position:position] = generator.randbytes(generator.randrange(1, 9))
        elif action == 4 and data:
            data[generator.randrange(len(data))] = generator.choice(
                [0, 0x7F, 0x80, 0xC0, 0xC1, 0xC7, 0xDF, 0xFF]
            )
        elif len(damaged) > 1:
            del damaged[index]
            continue
        damaged[index] = bytes(data)
    return damaged


@pytest.mark.parametrize("seed", range(4))
def test_damaged_messages_decode_or_raise_message_error_and_nothing_else(seed: int) -> None:
    generator = random.Random(seed)
    originals = [parts_of(golden) for golden in GOLDEN.values()]
    refused = read = 0
    for _ in range(3000):
        try:
            message = decode(damage(generator.choice(originals), generator))
        except MessageError:
            refused += 1
            continue
        read += 1
        use(message)
    assert refused > 1000
    assert read > 100


JUNK: list[Any] = [
    ..., None, True, False, 0, 1, -1, 255, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, -0.0, 1e300,
    float("nan"), float("inf"), "", "x", "x" * 300, "\0", "live", "hung", b"", b"\xff" * 4, b"\0" * 20, [],
    [[]], [1, 2], [1, 0], [0, 0], [2**62, 1], [None] * 33, [{}], [{"condition": "hung"}],
    [[1, "x"], [1, "y"]],
    [{"condition": "c", "detail": "d", "since_ns": 1, "more": [1]}] * 17, {}, {"a": 1}, {"a": -1}, {"": {}},
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2),
]  # fmt: skip


def use(message: Any) -> None:
    """What was accepted can be used, and sent on."""
    assert decode(encode(message)).source == message.source
    if isinstance(message, MaskMessage):
        json.dumps(to_json(message))
        if len(message.instances) * message.width * message.height < 1e6:
            assert message.masks.shape == (len(message.instances), message.height, message.width)


@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_messages_with_junk_for_values_decode_or_raise_message_error(seed: int) -> None:
    """Well-formed msgpack, so that every check of every key is met; some are damaged besides."""
    generator = random.Random(seed)
    originals = [parts_of(golden) for golden in GOLDEN.values()]
    refused = read = 0
    for _ in range(5000):
        parts = generator.choice(originals)
        for _ in range(generator.choice([1, 1, 2])):
            index = generator.randrange(1, min(3, len(parts)))
            keys = [*msgpack.unpackb(parts[index], strict_map_key=False), "health", "damaged", "later"]
            parts = repack(parts, index, **{generator.choice(keys): generator.choice(JUNK)})
        if generator.random() < 0.2:
            parts = damage(parts, generator)
        try:
            message = decode(parts)
        except MessageError:
            refused += 1
            continue
        read += 1
        use(message)
    assert refused > 1000
    assert read > 500
