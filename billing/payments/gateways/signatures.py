"""Comparing signatures over the bytes that arrived: in constant time, whatever a stranger put in the header."""

import hashlib
import hmac
from collections.abc import Iterable

from .base import Rejection, WebhookRejected


def same(theirs: str, ours: str) -> bool:
    """Whether two signatures are equal, in constant time; a text that is not ASCII is merely different."""
    return hmac.compare_digest(theirs.encode("utf-8", "surrogatepass"), ours.encode())


def hmac_sha256(secret: str, message: bytes) -> str:
    """HMAC-SHA256 of `message` as lower-case hex; the key is the whole secret in UTF-8."""
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def require_hmac_sha256(secrets: Iterable[str], message: bytes, signatures: Iterable[str]) -> None:
    """One of `signatures` must be that of `message` under one of `secrets`; raises WebhookRejected.

    Empty secrets are no secrets: with none left, nothing is believed. Several are valid side by side while one is replaced.
    """
    keys = [secret for secret in secrets if secret]
    if not keys:
        raise WebhookRejected(Rejection.NO_SECRET)
    given = [signature for signature in signatures if signature]
    if not given:
        raise WebhookRejected(Rejection.NO_SIGNATURE)
    matches = [same(signature, hmac_sha256(key, message)) for key in keys for signature in given[:10]]
    if not any(matches):
        raise WebhookRejected(Rejection.BAD_SIGNATURE)
