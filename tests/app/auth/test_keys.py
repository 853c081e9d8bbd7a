"""API keys: made once, stored without their secret, looked up without asking the store each time."""

import asyncio
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.artifacts import Artifacts, StoreUnreachable
from app.auth.keys import Key, KeyMissing, KeyRing, Keys


class Counted(Artifacts):
    """A store that counts how often it is asked, and can go away."""

    asked = 0
    away = False

    def read(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        self._ask()
        return super().read(path, start, stop)

    def files(self, path: str) -> list[str]:
        self._ask()
        return super().files(path)

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreUnreachable("away")


class Ring:
    """A key ring over a counted store, with a clock that is moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.store = Counted(str(folder))
        self.keys = Keys(self.store)
        self.now = 1000.0
        self._ring = KeyRing(self.keys, lambda: self.now)

    def holder(self, text: str) -> Key | None:
        return asyncio.run(self._ring.holder(text))


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path)


def unknown(number: int = 0) -> str:
    return f"sm_{number:016x}_{'a' * 43}"


def test_a_key_is_recognised_by_what_was_printed_once(ring: Ring) -> None:
    key, text = ring.keys.create("ci", "team-a", ["annotate", "train"], 60_000)
    assert text.startswith(f"sm_{key.id}_")
    assert ring.holder(text) == key
    assert (key.name, key.owner, key.scopes, key.tokens_per_minute) == ("ci", "team-a", ["annotate", "train"], 60_000)


def test_the_secret_is_not_stored(ring: Ring, tmp_path: Path) -> None:
    key, text = ring.keys.create("ci", "team-a", ["annotate"])
    stored = (tmp_path / "keys" / f"{key.id}.json").read_text()
    secret = text.removeprefix(f"sm_{key.id}_")
    assert len(secret) == 43  # 256 bits in base64
    assert secret not in stored
    assert set(json.loads(stored)) == set(Key.model_fields)


def test_no_two_keys_are_alike(ring: Ring) -> None:
    texts = {ring.keys.create("ci", "team-a", ["annotate"])[1] for _ in range(50)}
    assert len({text.split("_", 2)[1] for text in texts}) == len({text.split("_", 2)[2] for text in texts}) == 50


def test_anything_but_the_key_opens_nothing(ring: Ring) -> None:
    key, text = ring.keys.create("ci", "team-a", ["annotate"])
    _other, another = ring.keys.create("ci", "team-a", ["annotate"])
    wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
    mixed = f"sm_{key.id}_{another.split('_', 2)[2]}"
    malformed = [
        "",
        "sm_",
        text[3:],
        text + "a",
        text[:-1],
        text.upper(),
        f" {text}",
        f"sm_{key.id}_",
        "sm_../x_" + text,
    ]
    for attempt in [wrong, mixed, unknown(), key.secret_sha256, f"sm_{key.id}_{key.secret_sha256}", *malformed]:
        assert ring.holder(attempt) is None


def test_a_revoked_key_opens_nothing_five_seconds_later(ring: Ring) -> None:
    key, text = ring.keys.create("ci", "team-a", ["annotate"])
    assert ring.holder(text) == key
    ring.keys.revoke(key.id)
    ring.now += 5
    assert ring.holder(text) is None


def test_revoking_again_changes_nothing(ring: Ring) -> None:
    key, _text = ring.keys.create("ci", "team-a", ["annotate"])
    assert ring.keys.revoke(key.id) == ring.keys.revoke(key.id) == ring.keys.get(key.id)


@pytest.mark.parametrize("key_id", ["0" * 16, "../keys", ""])
def test_what_is_no_key_cannot_be_revoked(ring: Ring, key_id: str) -> None:
    with pytest.raises(KeyMissing):
        ring.keys.revoke(key_id)


def test_the_store_is_not_asked_for_every_request(ring: Ring) -> None:
    _key, text = ring.keys.create("ci", "team-a", ["annotate"])
    ring.holder(text)
    before = ring.store.asked
    for _ in range(100):
        assert ring.holder(text) is not None
    assert ring.store.asked == before


def test_ids_made_up_by_strangers_cost_one_look_a_second_between_them(ring: Ring) -> None:
    for _ in range(3):
        before = ring.store.asked
        for number in range(100):
            assert ring.holder(unknown(number)) is None
        assert ring.store.asked == before + 1
        ring.now += 1


def test_a_new_key_is_known_a_second_later_even_after_strangers_called(ring: Ring) -> None:
    assert ring.holder(unknown()) is None
    _key, text = ring.keys.create("ci", "team-a", ["annotate"])
    ring.now += 1
    assert ring.holder(text) is not None


def test_while_the_store_is_away_nobody_is_let_in_on_old_knowledge(ring: Ring) -> None:
    _key, text = ring.keys.create("ci", "team-a", ["annotate"])
    ring.holder(text)
    ring.store.away = True
    assert ring.holder(text) is not None
    ring.now += 5
    with pytest.raises(StoreUnreachable):
        ring.holder(text)
    ring.store.away = False
    assert ring.holder(text) is not None


def test_a_key_whose_file_is_gone_or_damaged_opens_nothing(ring: Ring, tmp_path: Path) -> None:
    for damage in (Path.unlink, lambda path: path.write_text('{"scopes": ["everything"]}')):
        key, text = ring.keys.create("ci", "team-a", ["annotate"])
        ring.now += 1
        assert ring.holder(text) == key
        damage(tmp_path / "keys" / f"{key.id}.json")
        ring.now += 5
        assert ring.holder(text) is None


@pytest.mark.parametrize(
    "fields",
    [{"name": ""}, {"name": "two words"}, {"owner": ""}, {"owner": "../x"}, {"scopes": []}, {"tokens_per_minute": 0}],
    ids=str,
)
def test_a_key_that_makes_no_sense_is_not_made(ring: Ring, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ring.keys.create(**({"name": "ci", "owner": "team-a", "scopes": ["annotate"]} | fields))  # type: ignore[arg-type]
    assert ring.keys.ids() == []
