"""Typed reading of a decoded msgpack map: each getter checks type and range and marks its key as known."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import msgpack

from pipeline.errors import MessageError
from pipeline.wire import limits

MAX_INT64 = 2**63 - 1

Choice = TypeVar("Choice", bound=str)


def unpack_map(
    data: bytes, name: str, *, limit: int, list_values: int = limits.LIST_VALUES
) -> dict[str, Any]:
    """Return the msgpack map with string keys in `data`; MessageError naming the part otherwise.

    `limit`: bytes of the part. `list_values`: values of one list; a list is made as large as its first bytes
    say, before any value is read.
    """
    if len(data) > limit:
        raise MessageError(f"the part {name} has {len(data)} bytes, at most {limit} are allowed")
    try:
        values = msgpack.unpackb(data, max_array_len=list_values, max_map_len=limits.MAP_KEYS)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise MessageError(f"the part {name} is no msgpack: {error or type(error).__name__}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise MessageError(f"the part {name} is no map with string keys")
    return values


class CheckedMap:
    """A map whose values are asked for one by one; MessageError naming `where` and the key on any fault."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.where = where
        self._values = values
        self._known: set[str] = set()

    def rest(self) -> dict[str, Any]:
        """Return what was never asked for: keys of a later minor version."""
        return {key: value for key, value in self._values.items() if key not in self._known}

    def integer(self, key: str, low: int, high: int) -> int:
        """Return an integer in low..high."""
        value = self._get(key)
        if type(value) is not int or not low <= value <= high:
            self._fail(key, value, f"an integer in {low}..{high}")
        return value

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """Return an integer in low..high, or None."""
        return None if self._get(key) is None else self.integer(key, low, high)

    def later_integer(self, key: str, low: int, high: int) -> int | None:
        """Return an integer in low..high, or None where the key is null or absent (a later version's)."""
        return self.optional_integer(key, low, high) if key in self._values else None

    def integers(self, key: str, number: int, low: int, high: int) -> tuple[int, ...]:
        """Return exactly `number` integers in low..high."""
        value = self._get(key)
        if (
            not isinstance(value, list)
            or len(value) != number
            or not all(type(each) is int and low <= each <= high for each in value)
        ):
            self._fail(key, value, f"{number} integers in {low}..{high}")
        return tuple(value)

    def optional_number(self, key: str, low: float, high: float) -> float | None:
        """Return a number in low..high, or None."""
        value = self._get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not low <= value <= high:
            self._fail(key, value, f"a number in {low:g}..{high:g}")
        return float(value)

    def text(self, key: str, limit: int = limits.TEXT) -> str:
        """Return a string of at most `limit` characters."""
        value = self._get(key)
        if not isinstance(value, str) or len(value) > limit:
            self._fail(key, value, f"a string of at most {limit} characters")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string, or None."""
        return None if self._get(key) is None else self.text(key)

    def choice(self, key: str, allowed: Sequence[Choice]) -> Choice:
        """Return one of the allowed strings."""
        value = self._get(key)
        if value not in allowed:
            self._fail(key, value, f"one of {', '.join(allowed)}")
        return allowed[allowed.index(value)]

    def flag(self, key: str) -> bool:
        """Return a boolean."""
        value = self._get(key)
        if not isinstance(value, bool):
            self._fail(key, value, "a boolean")
        return value

    def binary(self, key: str, length: int) -> bytes:
        """Return exactly `length` bytes."""
        value = self._get(key)
        if not isinstance(value, bytes) or len(value) != length:
            self._fail(key, value, f"{length} bytes")
        return value

    def optional_binary(self, key: str, length: int) -> bytes | None:
        """Return exactly `length` bytes, or None where the key is absent (as before a minor version)."""
        return self.binary(key, length) if key in self._values else None

    def optional_flag(self, key: str) -> bool | None:
        """Return a boolean, or None where the key is absent or null."""
        return None if self._values.get(key) is None else self.flag(key)

    def later_maps(self, key: str, limit: int) -> list[CheckedMap] | None:
        """Return a list of at most `limit` maps, or None where the key is null or absent."""
        if self._values.get(key) is None:
            return None
        maps = self.listing(key, limit)
        if not all(isinstance(each, dict) for each in maps):
            self._fail(key, maps, "a list of maps")
        return [CheckedMap(each, f"{key} of the {self.where}") for each in maps]

    def listing(self, key: str, limit: int) -> list[Any]:
        """Return a list of at most `limit` values of any type."""
        value = self._get(key)
        if not isinstance(value, list) or len(value) > limit:
            self._fail(key, value, f"a list of at most {limit} values")
        return value

    def counters(self, key: str) -> dict[str, int]:
        """Return a map of names to counts from 0."""
        value = self._get(key)
        if (
            not isinstance(value, dict)
            or len(value) > limits.COUNTERS
            or not all(
                isinstance(name, str) and type(count) is int and 0 <= count <= MAX_INT64
                for name, count in value.items()
            )
        ):
            self._fail(key, value, "a map of names to counts")
        return value

    def _get(self, key: str) -> Any:
        self._known.add(key)
        try:
            return self._values[key]
        except KeyError:
            raise MessageError(f"{self.where}: key {key!r} is missing") from None

    def _fail(self, key: str, value: Any, wanted: str) -> NoReturn:
        raise MessageError(f"{self.where}: {key} must be {wanted}, got {reprlib.repr(value)}")
