"""One POST, to a real receiver on this machine."""

import asyncio
import itertools
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from app.webhooks import sending
from app.webhooks.addresses import AddressRefused
from app.webhooks.sending import NoReply, Reply, Sender
from tests.app.webhooks.conftest import Answer, Listen, Receiver, book

BODY = b'{"type":"job.completed"}'


def post(url: str, *addresses: str, allow_private: bool = True) -> Reply:
    """Send a body to a URL whose host has these addresses."""
    return asyncio.run(Sender(allow_private, book(*addresses)[0]).post(url, BODY, {"webhook-id": "msg_1"}))


def test_the_body_arrives_as_it_is_under_the_host_s_name(receiver: Receiver) -> None:
    assert post(receiver.url("hooks.example"), "127.0.0.1") == Reply(204)
    seen = receiver.received.get_nowait()
    assert (seen.path, seen.body) == ("/hook?of=me", BODY)
    assert seen.headers["host"] == f"hooks.example:{receiver.port}"
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["webhook-id"] == "msg_1"
    assert seen.headers["user-agent"].startswith("Safemargin/")


def test_what_was_checked_is_what_is_connected_to(receiver: Receiver) -> None:
    resolve, asked = book("127.0.0.1")
    asyncio.run(Sender(allow_private=True, resolve=resolve).post(receiver.url("hooks.example"), BODY, {}))
    assert asked == [("hooks.example", receiver.port)]
    assert receiver.received.qsize() == 1


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::ffff:127.0.0.1"], ["93.184.216.34", "127.0.0.1"]])
def test_nothing_is_sent_to_a_host_with_an_address_that_is_not_public(receiver: Receiver, addresses: list[str]) -> None:
    with pytest.raises(AddressRefused):
        post(receiver.url("hooks.example"), *addresses, allow_private=False)
    with pytest.raises(AddressRefused):
        post(receiver.url(), allow_private=False)
    assert receiver.received.empty()


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.will(Answer(307, {"Location": receiver.url()}))
    assert post(receiver.url()).status == 307
    assert receiver.received.qsize() == 1


def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert post(receiver.url()).status == 204


def test_what_the_receiver_asks_for_is_passed_on(receiver: Receiver) -> None:
    receiver.will(Answer(503, {"Retry-After": "120"}))
    assert post(receiver.url()) == Reply(503, "120")


def test_a_reply_without_end_is_cut_off(receiver: Receiver) -> None:
    receiver.will(Answer(200, parts=lambda: itertools.repeat(b"x" * 1024)))
    assert post(receiver.url()) == Reply(200)


def test_a_reply_that_trickles_counts_from_its_status(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_BODY_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    receiver.will(Answer(200, parts=lambda: iter([b"x", theirs.recv(1)])))
    assert post(receiver.url()) == Reply(200)
    for end in (ours, theirs):
        end.close()


def test_a_second_address_is_tried_where_the_first_does_not_answer(receiver: Receiver) -> None:
    assert post(receiver.url("hooks.example"), "127.0.0.2", "127.0.0.1").status == 204


def test_who_is_silent_gave_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_REPLY_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NoReply):
        post(f"http://127.0.0.1:{silent.getsockname()[1]}/")


def test_who_is_not_there_gave_no_reply(receiver: Receiver) -> None:
    for addresses in ([], ["127.0.0.2"]):
        with pytest.raises(NoReply):
            post(receiver.url("hooks.example"), *addresses)


def test_the_certificate_must_be_the_host_s_although_its_address_is_called(
    listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = ["-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    receiver = listen(tls)
    monkeypatch.setattr(sending, "_tls", lambda: ssl.create_default_context(cafile=tmp_path / "cert"))
    assert post(receiver.url("hooks.example", "https"), "127.0.0.1") == Reply(204)
    with pytest.raises(NoReply):
        post(receiver.url("other.example", "https"), "127.0.0.1")
    assert receiver.received.qsize() == 1
