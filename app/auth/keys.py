"""API keys in the artifact store: one file `keys/{id}.json` each, without the secret.

A key reads `sm_{id}_{secret}`. The secret is 256 random bits and is stored as its plain SHA-256: slow, salted hashes
protect what can be guessed, and nobody guesses one of 2^256, however cheap each guess is. So asking costs microseconds,
which it does with every request.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.concurrency import run_in_threadpool

from app.artifacts import ArtifactMissing, Artifacts

log = logging.getLogger("safemargin.api")

Scope = Literal["annotate", "train", "admin"]
PlainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

_FOLDER = "keys"
_ID = re.compile(r"[0-9a-f]{16}")
_KEY = re.compile(rf"sm_(?P<id>{_ID.pattern})_(?P<secret>[A-Za-z0-9_-]{{43}})")
_NOBODYS = "0" * 64
_FRESH_SECONDS = 4.0
_LISTING_SECONDS = 1.0


class Key(BaseModel):
    """What is stored of a key.

    Attributes:
        id: its public part.
        name: what it is for.
        owner: the team whose jobs and files it sees; several keys may share one.
        scopes: what it may do.
        tokens_per_minute: its quota, in estimated tokens; None for no limit.
        secret_sha256: digest of its secret, in hexadecimal.
        created_at, revoked_at: Unix time in seconds.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: PlainName
    owner: PlainName
    scopes: list[Scope] = Field(min_length=1)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    secret_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: float
    revoked_at: float | None = None


class KeyMissing(Exception):
    """There is no key of this id."""


@dataclass(frozen=True)
class Keys:
    """The keys of one artifact store.

    Attributes:
        artifacts: the store.
    """

    artifacts: Artifacts

    def create(
        self, name: str, owner: str, scopes: Sequence[Scope], tokens_per_minute: int | None = None
    ) -> tuple[Key, str]:
        """Make a key; returns what is stored, and the key itself, which nothing can show again.

        Raises:
            pydantic.ValidationError: a field makes no sense.
        """
        secret = secrets.token_urlsafe(32)
        key = Key(
            id=secrets.token_hex(8),
            name=name,
            owner=owner,
            scopes=list(dict.fromkeys(scopes)),
            tokens_per_minute=tokens_per_minute,
            secret_sha256=_digest(secret),
            created_at=time.time(),
        )
        self._write(key)
        return key, f"sm_{key.id}_{secret}"

    def ids(self) -> list[str]:
        """Ids of all keys, revoked ones too."""
        names = [name.removesuffix(".json") for name in self.artifacts.files(_FOLDER) if name.endswith(".json")]
        return [name for name in names if _ID.fullmatch(name)]

    def get(self, key_id: str) -> Key | None:
        """A key; None if there is none of this id, or its file cannot be read."""
        if not _ID.fullmatch(key_id):
            return None
        try:
            return Key.model_validate_json(self.artifacts.read(_place(key_id)))
        except ArtifactMissing:
            return None
        except ValidationError:
            log.warning("the file of key %s cannot be read: it opens nothing", key_id)
            return None

    def revoke(self, key_id: str) -> Key:
        """Let a key open nothing any more; one revoked before stays revoked since then.

        Raises:
            KeyMissing: there is none of this id.
        """
        key = self.get(key_id)
        if key is None:
            raise KeyMissing(f"there is no key {key_id}")
        if key.revoked_at is None:
            key = key.model_copy(update={"revoked_at": time.time()})
            self._write(key)
        return key

    def _write(self, key: Key) -> None:
        self.artifacts.write(_place(key.id), key.model_dump_json(indent=2).encode())


class KeyRing:
    """Tells whose key a request carries, without asking the store for every request.

    A key read less than four seconds ago is trusted, so that a revoked one is refused five seconds later at the latest.
    Only keys that exist are remembered: ids made up by strangers take no memory, and all of them together cost
    one listing of the store a second, which is also how soon a new key is known.

    Args:
        keys: the keys.
        clock: seconds that only grow.
    """

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._held: dict[str, tuple[Key, float]] = {}
        self._ids: frozenset[str] = frozenset()
        self._listed = -_LISTING_SECONDS + clock()
        self._looking = asyncio.Lock()

    async def holder(self, text: str) -> Key | None:
        """The key that reads `text`; None if it is malformed, unknown, wrong or revoked.

        Raises:
            StoreUnreachable: the store must be asked and does not answer; nobody is let in on old knowledge.
        """
        match = _KEY.fullmatch(text)
        key = await self._find(match["id"]) if match else None
        # An unknown id is compared as well, so that the time of the answer does not tell which ids there are.
        same = hmac.compare_digest(_digest(match["secret"] if match else ""), key.secret_sha256 if key else _NOBODYS)
        return key if key is not None and same and key.revoked_at is None else None

    async def _find(self, key_id: str) -> Key | None:
        if (key := self._fresh(key_id)) is not None:
            return key
        async with self._looking:
            if (key := self._fresh(key_id)) is not None:
                return key
            if not await self._exists(key_id):
                return None
            asked = self._clock()
            key = await run_in_threadpool(self._keys.get, key_id)
            if key is None:
                self._held.pop(key_id, None)
                self._ids -= {key_id}
            else:
                self._held[key_id] = (key, asked)
            return key

    def _fresh(self, key_id: str) -> Key | None:
        key, asked = self._held.get(key_id, (None, 0.0))
        return key if key is not None and self._clock() - asked < _FRESH_SECONDS else None

    async def _exists(self, key_id: str) -> bool:
        now = self._clock()
        if key_id not in self._ids and now - self._listed >= _LISTING_SECONDS:
            self._ids = frozenset(await run_in_threadpool(self._keys.ids))
            self._listed = now
        return key_id in self._ids


def _place(key_id: str) -> str:
    return f"{_FOLDER}/{key_id}.json"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
