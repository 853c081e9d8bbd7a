"""Signatures that any library for Standard Webhooks accepts."""

import base64
import stat
import threading
from pathlib import Path

import pytest

from app.artifacts import Artifacts, StoreUnreachable
from app.webhooks.signing import headers, installation_secret, keys_of
from tests.app.webhooks.verifying import verified

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another key of 32 bytes, so there").decode()
BODY = b'{"test": 2432232314}'
ID, NOW = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330


def test_the_published_example() -> None:
    assert headers(keys_of(SECRET), ID, NOW, BODY) == {
        "webhook-id": ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_a_secret_is_exchanged_either_verifies() -> None:
    sent = headers(keys_of(f"{OTHER}  {SECRET}\n"), ID, NOW, BODY)
    assert len(sent["webhook-signature"].split(" ")) == 2
    assert all(verified(secret, sent, BODY, NOW) for secret in (SECRET, OTHER))


def test_what_was_changed_does_not_verify() -> None:
    sent = headers(keys_of(SECRET), ID, NOW, BODY)
    assert not verified(OTHER, sent, BODY, NOW)
    assert not verified(SECRET, sent, BODY + b" ", NOW)
    assert not verified(SECRET, sent | {"webhook-id": "msg_other"}, BODY, NOW)
    assert not verified(SECRET, sent | {"webhook-timestamp": str(NOW + 1)}, BODY, NOW)


@pytest.mark.parametrize(
    "wrong",
    [
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS-",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        f"{SECRET} whsec_ünsinn",
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 random bytes") as refusal:
        keys_of(wrong)
    assert "MfKQ" not in str(refusal.value) and "ünsinn" not in str(refusal.value)


def test_nothing_goes_unsigned() -> None:
    with pytest.raises(ValueError, match="without a signature"):
        headers(keys_of(" "), ID, NOW, BODY)


def test_the_installation_s_secret_stays_the_same_and_is_the_owner_s(tmp_path: Path) -> None:
    made = installation_secret(Artifacts(str(tmp_path / "store")))
    assert [len(key) for key in keys_of(made)] == [32]
    assert installation_secret(Artifacts(str(tmp_path / "store"))) == made
    assert stat.S_IMODE((tmp_path / "store" / "webhook-secret").stat().st_mode) == 0o600


def test_processes_that_start_together_agree_on_it(tmp_path: Path) -> None:
    gate, found = threading.Barrier(8), set[str]()

    def ask() -> None:
        gate.wait()
        found.add(installation_secret(Artifacts(str(tmp_path))))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["webhook-secret"]


def test_no_secret_without_the_artifact_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnreachable):
        installation_secret(Artifacts(str(tmp_path / "file" / "store")))
