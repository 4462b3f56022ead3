"""The certificates that PayPal signs webhooks with: fetched only from PayPal, believed only when a public authority vouches."""

from __future__ import annotations

import functools
import re
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import NameOID

from .base import ObjectNotFound, Rejection, WebhookRejected

V = TypeVar("V")

_CERTIFICATE_PATH = re.compile(r"/v1/notifications/certs/[A-Za-z0-9_-]{1,100}")
_CHAIN_LIMIT = 5
_REMEMBERED = 50
# An address that brought nothing is not asked again for a while: strangers choose it.
_REFUSED_SECONDS = 60


def is_paypals(url: str) -> bool:
    """Whether a certificate may be fetched from `url`: HTTPS, a host of paypal.com, its usual port and path, nothing else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    if url != f"https://{host}{parts.path}" and url != f"https://{host}:443{parts.path}":
        return False
    ours = host == "paypal.com" or host.endswith(".paypal.com")
    return ours and host.isascii() and port in (None, 443) and _CERTIFICATE_PATH.fullmatch(parts.path) is not None


@functools.cache
def public_authorities() -> tuple[x509.Certificate, ...]:
    """The certificate authorities that this system trusts."""
    context = ssl.create_default_context()
    found = []
    with warnings.catch_warnings():
        # Some old authorities break rules that nobody minded when they were made.
        warnings.simplefilter("ignore")
        for encoded in context.get_ca_certs(binary_form=True):
            try:
                found.append(x509.load_der_x509_certificate(encoded))
            except ValueError:
                continue
    return tuple(found)


def trusted_key(pem: bytes, *, now: datetime, authorities: Sequence[x509.Certificate]) -> RSAPublicKey:
    """The RSA key of the first certificate in `pem`; raises WebhookRejected unless it is PayPal's, valid now, and vouched for.

    The chain is walked by hand: the certificate is no web server's, so the rules for those do not fit it.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise WebhookRejected(Rejection.FOREIGN_CERTIFICATE) from None
    leaf = certificates[0]
    key = leaf.public_key()
    if (
        not isinstance(key, RSAPublicKey)
        or not _names_paypal(leaf)
        or not _vouched_for(leaf, certificates[1:], authorities, now)
    ):
        raise WebhookRejected(Rejection.FOREIGN_CERTIFICATE)
    return key


def _names_paypal(certificate: x509.Certificate) -> bool:
    names = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names += extension.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        pass
    return any(name == "paypal.com" or name.endswith(".paypal.com") for name in names)


def _vouched_for(
    leaf: x509.Certificate, between: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], now: datetime
) -> bool:
    certificate = leaf
    for _ in range(_CHAIN_LIMIT):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return False
        if any(_issued(authority, certificate, now) for authority in authorities):
            return True
        issuer = next((candidate for candidate in between if _issued(candidate, certificate, now)), None)
        if issuer is None:
            return False
        certificate = issuer
    return False


def _issued(issuer: x509.Certificate, certificate: x509.Certificate, now: datetime) -> bool:
    if issuer.subject != certificate.issuer or not issuer.not_valid_before_utc <= now <= issuer.not_valid_after_utc:
        return False
    try:
        if not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        certificate.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, InvalidSignature, TypeError, ValueError):
        return False
    return True


class CertificateStore:
    """Certificates by address, fetched once. `fetch` answers the PEM, or raises ObjectNotFound or GatewayUnavailable."""

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._found: dict[str, bytes] = {}
        self._refused: dict[str, int] = {}
        self._lock = threading.Lock()

    def pem(self, url: str) -> bytes:
        """The certificate at `url`; raises WebhookRejected when there is none, GatewayUnavailable when it cannot be had now."""
        with self._lock:
            known, refused_at = self._found.get(url), self._refused.get(url)
        if known is not None:
            return known
        if refused_at is not None and time.monotonic() - refused_at < _REFUSED_SECONDS:
            raise WebhookRejected(Rejection.FOREIGN_CERTIFICATE)
        try:
            pem = self._fetch(url)
        except ObjectNotFound:
            with self._lock:
                _remember(self._refused, url, int(time.monotonic()))
            raise WebhookRejected(Rejection.FOREIGN_CERTIFICATE) from None
        with self._lock:
            _remember(self._found, url, pem)
        return pem


def _remember(store: dict[str, V], key: str, value: V) -> None:
    while len(store) >= _REMEMBERED:
        del store[next(iter(store))]
    store[key] = value
