"""Redaction: no password in any text."""

from __future__ import annotations

import pytest

from pipeline.redact import redact, redact_about, redact_url


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
        ("rtsp://cam:1/s3cret@host/x", "rtsp://cam:***@host/x"),
        ("rtsp://cam:554/s3cret@host/x", "rtsp://cam:***@host/x"),
        ("rtsp://john.doe:554/s3cret@host/x", "rtsp://john.doe:***@host/x"),
        ('rtsp://cam:a"s3cret@host/x', "rtsp://cam:***@host/x"),
        ("rtsp://cam:a's3cret@host/x", "rtsp://cam:***@host/x"),
        ("rtsp://cam:a<s3cret>@host/x", "rtsp://cam:***@host/x"),
        ("rtsp://us/er:s3cret@host/x", "rtsp://us/er:***@host/x"),
        ("rtsp:/cam:s3cret@host", "rtsp:/cam:***@host"),
        ("cam:s3cret@host", "cam:***@host"),
        ("no such file: cam:s3cret@host/x", "no such file: cam:***@host/x"),
        ("rtsp://10.0.0.5:554/a,rtsp://cam:s3cret@host", "rtsp://10.0.0.5:***@host"),
        ("http://host/v?password=a;s3cret", "http://host/v?password=***"),
        (
            "cannot open 'http://host/v?password=s3cret': refused",
            "cannot open 'http://host/v?password=***': refused",
        ),
        ("http://host/cgi?loginuse=me&loginpas=s3cret", "http://host/cgi?loginuse=me&loginpas=***"),
        ("http://host/v?jwt=s3cret&x=1", "http://host/v?jwt=***&x=1"),
        ("Authorization: Basic czNjcmV0", "Authorization: ***"),
    ],
)
def test_secrets_go(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert "s3cret" not in redact(text)


@pytest.mark.parametrize("word", ["a", "a:", "rtsp://", "a.b.", "password=;", "-", "@", "u:p@"])
def test_a_long_text_takes_no_longer_than_its_length(word: str) -> None:
    # Where the time grows with the square of the length this takes minutes, and the run's limit ends it.
    text = word * 50_000
    assert len(redact(text)) < 2 * len(text)
    assert len(redact_url(text)) < 2 * len(text)


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
        "https://media.example.org/@channel/clip@2x.mp4",
        "C:\\videos\\clip.mp4",
        "2026-11-23 10:00:05 frame 3: ratio 16:9",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


ADDRESSES = [
    ("rtsp://cam:my s3cret@127.0.0.1:9/x", "rtsp://cam:***@127.0.0.1:9/x"),
    ("rtsp://cam:my\ns3cret@127.0.0.1:9/x", "rtsp://cam:***@127.0.0.1:9/x"),
    ("rtsp://s3cret word@host/x", "rtsp://***@host/x"),
    ("https://ab/s3cret@host/x", "https://***@host/x"),
    ("rtsp://us/er:s3cret@host/x", "rtsp://us/er:***@host/x"),
    ("rtsp://cam:554/s3cret@host/x", "rtsp://cam:***@host/x"),
    ("rtsp://cam:p?q#s3cret@host/x", "rtsp://cam:***@host/x"),
    ("rtsp://cam:p@ss s3cret@host/x", "rtsp://cam:***@host/x"),
    ("rtsp:/cam:my s3cret@host", "rtsp:/cam:***@host"),
    ("rtsp:cam:my s3cret@host", "rtsp:***@host"),
    ("rtsp;//cam:my s3cret@host", "rtsp;//cam:***@host"),
    ("cam:my s3cret@host", "cam:***@host"),
    ("http://host/v?password=a;my s3cret&x=1", "http://host/v?password=***&x=1"),
]


@pytest.mark.parametrize(("url", "expected"), ADDRESSES)
def test_a_whole_address_shows_no_secret_whatever_it_holds(url: str, expected: str) -> None:
    assert redact_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://10.0.0.5:554/cam@2",
        "rtsp://[fe80::1]:554/cam@2",
        "https://media.example.org/@channel/clip@2x.mp4",
        "me@home/my clip.mp4",
        "/data/10:30 me.mp4",
        "demo",
    ],
)
def test_an_address_without_a_secret_stays(url: str) -> None:
    assert redact_url(url) == url


@pytest.mark.parametrize("url", [url for url, _ in ADDRESSES])
def test_a_text_about_an_address_holds_no_piece_of_its_secret(url: str) -> None:
    host = url.rpartition("@")[2]
    word = "s3cret"
    for text in (
        f"cannot open {url}: refused",
        f"no path /{word}@{host}",
        f"[tcp] to {word} failed",
        f"{url!r}",
    ):
        hidden = redact_about(text, url)
        assert word not in hidden
        assert "***" in hidden
    assert redact_about("connection refused", url) == "connection refused"


def test_a_secret_that_a_text_holds_decoded_goes_too() -> None:
    assert (
        redact_about("user cam, password a/s3cret", "rtsp://cam:a%2Fs3cret@host") == "user cam, password ***"
    )


@pytest.mark.parametrize("url", ["rtsp://cam:s3cret@host/x?token=abc", *(url for url, _ in ADDRESSES)])
def test_twice_changes_nothing(url: str) -> None:
    once = redact(url)
    assert redact(once) == once
    whole = redact_url(url)
    assert redact_url(whole) == whole
    assert redact_about(whole, whole) == whole
