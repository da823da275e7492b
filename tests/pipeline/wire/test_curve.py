"""Encrypted streams: key files, allowed clients, and what those who are turned away are told."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from support.wait import wait_until
from support.wire import NO_DROPS, make_publisher, small_result, start_verb

from pipeline.errors import ConfigError
from pipeline.wire.curve import write_keys
from pipeline.wire.subscriber import Subscriber


def run_keys(folder: Path) -> tuple[int, str, str]:
    process = start_verb("keys", str(folder))
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Key files by name."""
    return {path.name: str(path) for path in write_keys(tmp_path / "keys")}


def test_the_keys_verb_writes_files_that_only_their_owner_reads_and_never_overwrites(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "keys"
    code, out, err = run_keys(folder)
    assert code == 0, err
    names = {"server.key", "server.key_secret", "client.key", "client.key_secret"}
    assert {path.name for path in folder.iterdir()} == names
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ("secret-key" in path.read_text()) == path.name.endswith("_secret")
    assert "publish.curve_secret_key_file" in out
    before = {path.name: path.read_text() for path in folder.iterdir()}
    code, out, err = run_keys(folder)
    assert code == 1
    assert "exists already" in err
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_an_encrypted_stream_reaches_an_allowed_client_beyond_loopback(keys: dict[str, str]) -> None:
    secure = {
        "curve_secret_key_file": keys["server.key_secret"],
        "curve_allowed_clients": [keys["client.key"]],
    }
    with make_publisher(address="tcp://0.0.0.0:*", **secure) as publisher:
        address = "tcp://127.0.0.1:" + publisher.address.rpartition(":")[2]
        process = start_verb(
            "subscribe", address, "--source", "cam", "--json",
            "--server-key", keys["server.key"], "--client-key", keys["client.key_secret"],
        )  # fmt: skip
        assert publisher.wait_for_subscribers(1)
        for index in range(20):
            publisher.publish(small_result(index), NO_DROPS)
        publisher.end("cam", "end_of_file")
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 20


def test_without_a_list_any_client_that_knows_the_server_key_may_come(keys: dict[str, str]) -> None:
    key = re.search('public-key = "(.*)"', Path(keys["server.key"]).read_text())
    assert key is not None
    with (
        make_publisher(curve_secret_key_file=keys["server.key_secret"]) as publisher,
        Subscriber(publisher.address, server_key=key[1], timeout_seconds=10) as subscriber,
    ):
        publisher.wait_for_subscribers(1)
        publisher.publish(small_result(0), NO_DROPS)
        assert next(subscriber).seq == 0


def test_a_client_that_is_not_on_the_list_is_told_so(
    keys: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_keys(tmp_path / "other")[3]
    secure = {
        "curve_secret_key_file": keys["server.key_secret"],
        "curve_allowed_clients": [keys["client.key"]],
    }
    with make_publisher(**secure) as publisher:
        stranger = Subscriber(
            publisher.address, server_key=keys["server.key"], client_key_file=str(other), timeout_seconds=1
        )
        with stranger, pytest.raises(TimeoutError, match=r"does not allow this key.*curve_allowed_clients"):
            next(stranger)
        assert publisher.num_subscribers == 0
    assert "does not allow this key" in caplog.text


def test_a_client_that_was_turned_away_comes_in_once_it_is_allowed(
    keys: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ZeroMQ itself never connects again after a handshake that was refused."""
    public, secret = write_keys(tmp_path / "other")[2:]
    server = {"curve_secret_key_file": keys["server.key_secret"]}
    with make_publisher(curve_allowed_clients=[keys["client.key"]], **server) as publisher:
        address = publisher.address
        reader = Subscriber(address, server_key=keys["server.key"], client_key_file=str(secret))
        wait_until(lambda: "does not allow this key" in caplog.text, what="it is refused")
    with reader, make_publisher(address=address, curve_allowed_clients=[str(public)], **server) as publisher:
        assert publisher.wait_for_subscribers(1)
        publisher.publish(small_result(0), NO_DROPS)
        assert next(reader).seq == 0


def test_plain_clients_and_wrong_server_keys_hear_nothing_and_are_told_why(keys: dict[str, str]) -> None:
    with make_publisher(curve_secret_key_file=keys["server.key_secret"], heartbeat_seconds=0.05) as publisher:
        plain = Subscriber(publisher.address, timeout_seconds=1)
        with plain, pytest.raises(TimeoutError, match="may be encrypted, give its server key"):
            next(plain)
        wrong = Subscriber(publisher.address, server_key=keys["client.key"], timeout_seconds=1)
        with wrong, pytest.raises(TimeoutError, match="server key is not the publisher's"):
            next(wrong)
        assert publisher.num_subscribers == 0
    with make_publisher(heartbeat_seconds=0.05) as publisher:
        encrypted = Subscriber(publisher.address, server_key=keys["server.key"], timeout_seconds=1)
        with encrypted, pytest.raises(TimeoutError, match="or it does not encrypt"):
            next(encrypted)


def test_key_files_that_are_none_are_config_errors_that_name_key_and_remedy(
    keys: dict[str, str], tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    for path in (str(tmp_path / "missing"), str(text)):
        with pytest.raises(ConfigError, match=r"publish.curve_secret_key_file.*pipeline keys DIR"):
            make_publisher(curve_secret_key_file=path)
    with pytest.raises(ConfigError, match=r"ends in .key_secret"):
        make_publisher(curve_secret_key_file=keys["server.key"])
    with pytest.raises(ConfigError, match=r"publish.curve_allowed_clients"):
        make_publisher(curve_secret_key_file=keys["server.key_secret"], curve_allowed_clients=["short"])
    with pytest.raises(ConfigError, match=r"needs publish.curve_secret_key_file"):
        make_publisher(curve_allowed_clients=[keys["client.key"]])
    with pytest.raises(ConfigError, match="server key"):
        Subscriber("tcp://127.0.0.1:5555", server_key="short")
    with pytest.raises(ValueError, match="needs server_key"):
        Subscriber("tcp://127.0.0.1:5555", client_key_file=keys["client.key_secret"])


def test_an_encrypted_publisher_lets_many_in_and_out(keys: dict[str, str]) -> None:
    with make_publisher(curve_secret_key_file=keys["server.key_secret"]) as publisher:
        subscribers = [Subscriber(publisher.address, server_key=keys["server.key"]) for _ in range(8)]
        assert publisher.wait_for_subscribers(8)
        assert publisher.num_subscribers == 8
        for subscriber in subscribers:
            subscriber.close()
        wait_until(lambda: publisher.num_subscribers == 0, what="all have left")
