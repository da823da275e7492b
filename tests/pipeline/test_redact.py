"""Redaction: no password in any text."""

from __future__ import annotations

import pytest

from pipeline.redact import redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://cam:s3cret@10.0.0.5:554/h264", "rtsp://cam:***@10.0.0.5:554/h264"),
        ("RTSPS://cam:s3cret@host/x", "RTSPS://cam:***@host/x"),
        ("rtsp://cam:p@ss:s3cret@host/x", "rtsp://cam:***@host/x"),
        ("rtsp://cam:s3/cret@host/x", "rtsp://cam:***@host/x"),
        ("rtsp://cam:@host/x", "rtsp://cam:***@host/x"),
        ("https://s3cret@host/x", "https://***@host/x"),
        ("cannot open 'rtsp://cam:s3cret@host/x': refused", "cannot open 'rtsp://cam:***@host/x': refused"),
        ("a rtsp://a:s3cret@h/1 b rtsp://b:s3cret@h/2", "a rtsp://a:***@h/1 b rtsp://b:***@h/2"),
        ("http://host/v.mp4?user=me&password=s3cret&x=1", "http://host/v.mp4?user=me&password=***&x=1"),
        ("http://host/v?token=s3cret", "http://host/v?token=***"),
        ("http://host/v?access_token=s3cret", "http://host/v?access_token=***"),
        ("http://host/v?X-Amz-Signature=s3cret", "http://host/v?X-Amz-Signature=***"),
        ("rtsp://host/user=admin_password=s3cret", "rtsp://host/user=admin_password=***"),
        ("Authorization: Basic czNjcmV0", "Authorization: ***"),
    ],
)
def test_secrets_go(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert "s3cret" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://10.0.0.5:554/cam@2",
        "rtsp://host/cam@2",
        "http://[::1]:80/a",
        "clip.mp4",
        "/dev/video0",
        "me@host",
        "http://host/monkey?keyframe=1",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_twice_changes_nothing() -> None:
    once = redact("rtsp://cam:s3cret@host/x?token=abc")
    assert redact(once) == once
