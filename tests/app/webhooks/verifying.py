"""A receiver's check of a webhook, written from the specification alone."""

import base64
import hashlib
import hmac
from collections.abc import Mapping


def verified(secret: str, headers: Mapping[str, str], body: bytes, now: float, tolerance: float = 300) -> bool:
    """Whether a body came from who knows the secret, not long ago."""
    key = base64.b64decode(secret[len("whsec_") :])
    signed = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode() + b"." + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    sent = [part.split(",", 1) for part in headers["webhook-signature"].split(" ")]
    good = any(version == "v1" and hmac.compare_digest(value, expected) for version, value in sent)
    return good and abs(now - int(headers["webhook-timestamp"])) <= tolerance
