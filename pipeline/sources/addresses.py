"""What a source's address means: kind, what is opened, and what people may read of it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pipeline.errors import SourceNotFound
from pipeline.redact import redact_about, redact_url

STREET_CLIP = Path(__file__).parents[1] / "clips" / "street.mp4"
"""The rendered clip that ships: what the source `street` plays (docs/data.md)."""

AddressKind = Literal["demo", "file", "images", "rtsp", "http", "device"]

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_KIND_OF_SCHEME: dict[str, AddressKind] = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
_DEVICE_FORMAT = {"linux": "v4l2", "darwin": "avfoundation"}


@dataclass(frozen=True)
class Address:
    """Where a source is, understood."""

    kind: AddressKind
    target: str = field(repr=False)
    """What is opened: path, URL or device name, with the password."""
    shown: str
    """What people may read: without the password."""
    format: str | None = None
    """FFmpeg's input format, for devices."""
    packaged: bool = False
    """Whether it is a file that ships with this package."""

    @property
    def remote(self) -> bool:
        """Whether a network lies between."""
        return self.kind in ("rtsp", "http")

    def redact(self, text: str) -> str:
        """Return a text about this address without its password, however that is spelt."""
        return redact_about(text, self.target)


def parse_address(url: str, *, source: str = "") -> Address:
    """Understand `url`: `street`, `demo`, a path, file://, a URL, /dev/videoN or a number.

    URLs are rtsp(s):// and http(s)://. A file or folder that is called street or demo, or a number, is
    reached as ./demo. Whether anything is there shows when it is opened. Raises SourceNotFound for a scheme
    or a platform's device that is not supported.
    """
    shown = redact_url(url)
    if url == "demo":
        return Address("demo", url, shown)
    if url == "street":
        return Address("file", str(STREET_CLIP), shown, packaged=True)
    scheme = _SCHEME.match(url)
    if scheme is not None:
        name = scheme["scheme"].lower()
        if name in _KIND_OF_SCHEME:
            return Address(_KIND_OF_SCHEME[name], url, shown)
        if name != "file":
            raise SourceNotFound(
                f"source {source!r}: {shown}: {name}:// is not supported; use a file, a folder of images, "
                "rtsp://, rtsps://, http://, https://, a camera device, street or demo",
                source=source,
            )
        url = unquote(urlsplit(url).path)
    elif re.fullmatch(r"/dev/video\d+", url) or re.fullmatch(r"\d{1,3}", url):
        return _device(url, source=source)
    try:
        path = Path(url).expanduser()
        return Address("images" if path.is_dir() else "file", str(path), shown)
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL
        raise SourceNotFound(
            f"source {source!r}: {shown[:200]} cannot be a path ({error.__class__.__name__}); "
            "check its spelling",
            source=source,
        ) from None


def _device(url: str, *, source: str) -> Address:
    name = _DEVICE_FORMAT.get(sys.platform)
    if name is None:
        raise SourceNotFound(
            f"source {source!r}: {url}: camera devices are not supported on {sys.platform}", source=source
        )
    target = url
    if url.isdigit():
        target = f"/dev/video{url}" if name == "v4l2" else f"{url}:none"
    return Address("device", target, url, name)
