"""Which certificates are believed: every link of the chain counts."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from billing.payments.gateways.base import Rejection, WebhookRejected
from billing.payments.gateways.paypal_certificates import public_authorities, trusted_key

NOW = datetime(2026, 11, 20, tzinfo=UTC)
PAYPAL = "messageverificationcerts.paypal.com"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass
class Issued:
    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def issue(
    name: str, by: Issued | None = None, *, ca: bool, years: tuple[int, int] = (2026, 2028), curve: bool = False
) -> Issued:
    key: Key = ec.generate_private_key(ec.SECP256R1()) if curve else rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(years[0], 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(years[1], 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    return Issued(builder.sign((by or Issued(None, key)).key, hashes.SHA256()), key)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def root() -> Issued:
    return issue("Root", ca=True)


def verdict(*chain: Issued, root: Issued) -> str:
    try:
        trusted_key(b"".join(one.pem for one in chain), now=NOW, authorities=[root.certificate])
    except WebhookRejected as rejected:
        return rejected.reason.value
    return "trusted"


FOREIGN = Rejection.FOREIGN_CERTIFICATE.value


def test_one_that_an_authority_issued(root: Issued) -> None:
    assert verdict(issue(PAYPAL, root, ca=False), root=root) == "trusted"


def test_one_behind_an_intermediate(root: Issued) -> None:
    between = issue("Between", root, ca=True)

    assert verdict(issue(PAYPAL, between, ca=False), between, root=root) == "trusted"


def test_one_whose_intermediate_is_missing(root: Issued) -> None:
    between = issue("Between", root, ca=True)

    assert verdict(issue(PAYPAL, between, ca=False), root=root) == FOREIGN


def test_one_issued_by_a_certificate_that_may_not_issue(root: Issued) -> None:
    no_authority = issue("shop.example.com", root, ca=False)

    assert verdict(issue(PAYPAL, no_authority, ca=False), no_authority, root=root) == FOREIGN


@pytest.mark.parametrize("years", [(2024, 2026), (2027, 2029)])
def test_one_outside_its_time(root: Issued, years: tuple[int, int]) -> None:
    assert verdict(issue(PAYPAL, root, ca=False, years=years), root=root) == FOREIGN


def test_one_whose_intermediate_ran_out(root: Issued) -> None:
    between = issue("Between", root, ca=True, years=(2024, 2026))

    assert verdict(issue(PAYPAL, between, ca=False), between, root=root) == FOREIGN


def test_one_that_only_names_the_authority(root: Issued) -> None:
    impostor = issue("Root", ca=True)

    assert verdict(issue(PAYPAL, impostor, ca=False), impostor, root=root) == FOREIGN


@pytest.mark.parametrize("name", ["paypal.com.evil.example", "evilpaypal.com", "Shop"])
def test_one_of_somebody_else(root: Issued, name: str) -> None:
    assert verdict(issue(name, root, ca=False), root=root) == FOREIGN


def test_one_without_an_rsa_key(root: Issued) -> None:
    assert verdict(issue(PAYPAL, root, ca=False, curve=True), root=root) == FOREIGN


@pytest.mark.parametrize("pem", [b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate(root: Issued, pem: bytes) -> None:
    with pytest.raises(WebhookRejected):
        trusted_key(pem, now=NOW, authorities=[root.certificate])


def test_the_systems_authorities_are_there() -> None:
    assert len(public_authorities()) > 20
