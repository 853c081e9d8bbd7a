"""Signatures as in Standard Webhooks 1.0 (https://www.standardwebhooks.com), and the secrets behind them."""

import base64
import binascii
import hashlib
import hmac
import secrets

from app.artifacts import ArtifactMissing, Artifacts

_PREFIX = "whsec_"
_NEW_BYTES = 32
_LEAST_BYTES, _MOST_BYTES = 24, 64  # what the specification allows
_FILE = "webhook-secret"


def keys_of(text: str) -> list[bytes]:
    """The HMAC keys in secrets written `whsec_<base64>`, separated by spaces.

    Raises:
        ValueError: one of them is not written so, or not 24 to 64 bytes long; the message does not repeat it.
    """
    return [_key(secret) for secret in text.split()]


def headers(keys: list[bytes], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that let a receiver verify a body, with one signature a key.

    Args:
        keys: HMAC keys; several while a secret is being exchanged.
        webhook_id: the same for every attempt; must not hold a full stop.
        timestamp: Unix time of this attempt in whole seconds.
        body: exactly the bytes that are sent.

    Raises:
        ValueError: there is no key.
    """
    if not keys:
        raise ValueError("nothing is sent without a signature")
    content = f"{webhook_id}.{timestamp}.".encode() + body
    digests = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{digest}" for digest in digests),
    }


def installation_secret(artifacts: Artifacts) -> str:
    """The secret of this installation, made by whoever asks first.

    Raises:
        StoreUnreachable: the artifact store does not answer.
    """
    try:
        return artifacts.read(_FILE).decode()
    except ArtifactMissing:
        made = _PREFIX + base64.b64encode(secrets.token_bytes(_NEW_BYTES)).decode()
        artifacts.write_secret(_FILE, made.encode())
        return artifacts.read(_FILE).decode()  # another process may have been faster


def _key(secret: str) -> bytes:
    wrong = f"a webhook secret is {_PREFIX} and the base64 of {_LEAST_BYTES} to {_MOST_BYTES} random bytes"
    if not secret.startswith(_PREFIX):
        raise ValueError(wrong)
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(wrong) from None
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise ValueError(wrong)
    return key
