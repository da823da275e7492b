"""What either end of the mask stream takes from outside: each limit once, with what happens beyond it.

docs/wire.md lists them all; a test holds that page to these numbers. Sizes are bytes as they come in unless a
name says otherwise. Design: ours.
"""

from __future__ import annotations

# What a publisher takes from its readers. The longest thing that a reader has to say is the topic of a
# subscription, 81 bytes, and in an encrypted handshake about 600 bytes.

READER_FRAME_BYTES = 1024
"""Largest frame that a reader may send; ZeroMQ ends the connection at a larger one before it is in memory."""
SUBSCRIPTION_BYTES = 128
"""Longest subscription; a longer one matches no topic that there can be, and is refused."""
SUBSCRIPTIONS = 256
"""Subscriptions of one connection; further ones are refused."""
SUBSCRIPTIONS_TOTAL_BYTES = 32 * 1024
"""All subscriptions of one connection, refused ones too, because ZeroMQ keeps these as well (about 100 bytes
of memory for each byte); beyond, the connection is cut."""
SUBSCRIPTION_CHANGES = 1024
"""Subscriptions and their ends from one connection within CHANGES_SECONDS; beyond, the connection is cut:
each subscription makes the publisher send `event` to everybody."""
CHANGES_SECONDS = 10.0
UNHEARD_BYTES = 256 * 1024
"""What may come over a connection beyond whole messages, for the handshake and for parts of a message whose
last one is missing; beyond, the connection is cut. Of TCP on Linux, looked at every 0.05 s."""
UNHEARD_BYTES_A_SECOND = 256.0
"""What is added to it for every second of a connection, for ZeroMQ's own heartbeats."""
CONNECTIONS = 256
"""Connections of one publisher, also those whose handshake is under way; when one more comes, the oldest
that subscribes to nothing is cut."""
HANDSHAKE_SECONDS = 5.0
"""How long a handshake may take."""

# What a reader takes from a publisher, and what a publisher of ours refuses to send.

PART_BYTES = 16 * 1024 * 1024
"""Largest part of a message, the default of `Subscriber(max_message_bytes)`; ZeroMQ ends the connection at a
larger one before it is in memory."""
PARTS = 16
"""Parts of a message; the version that is read here knows four."""
HEADER_BYTES = 64 * 1024
"""Header of `masks`, `heartbeat` and `end`."""
EVENT_BYTES = 1024 * 1024
"""Header of `event`, which holds the class list."""
INSTANCES_BYTES = 1024 * 1024
"""The part `instances`."""
INSTANCES = 4096
"""Instances of a frame."""
CLASSES = 65536
"""Entries of a class list; their ids are 0..65535 as in the column `class`."""
COUNTERS = 64
"""Entries of a map of counters."""
TROUBLES = 16
"""Entries of `health`."""
TEXT = 256
"""Characters of a string, names of classes too."""
LONG_TEXT = 4096
"""Characters of `url` and `detail`."""
DETAIL_SENT = 512
"""Characters of a `detail` of `health` that a publisher of ours sends; the rest is cut off."""
MAP_KEYS = 1024
"""Keys of one msgpack map."""
LIST_VALUES = 1024
"""Values of one msgpack list; in `event` CLASSES."""

SOURCES = 1024
"""Sources that one reader keeps account of; messages of further ones are refused like malformed ones."""
BOOK_BYTES = 8 * 1024 * 1024
"""Newest event, heartbeat and end of all sources together, as they came; beyond, the message is refused."""
WAITING_BYTES = 256 * 1024 * 1024
"""Memory that waiting messages may take by the estimate of `memory_of`: beyond, iteration stops reading as
at `max_waiting`, and `latest()` drops the oldest, counted as skipped."""


def memory_of(parts: list[bytes]) -> int:
    """Return a generous estimate of the bytes that a decoded `masks` message takes.

    An empty list in a header is one byte there and 64 as a value of Python; an instance is 32 bytes in its
    columns and some 500 as a value.
    """
    _, header, instances, masks = parts[:4]
    return 64 * len(header) + 16 * len(instances) + len(masks)
