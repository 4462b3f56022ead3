"""Nobody makes us call a machine that is not on the public internet."""

import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from billing.webhooks import destinations
from billing.webhooks.destinations import AddressForbidden, CheckedResolver, connector, url_checked
from billing.webhooks.sender import Message, Outcome, message_send
from iafactory.common.errors import ApiError
from iafactory.common.public_addresses import address_allowed

from .receiver import Receiver

FORBIDDEN = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
ALLOWED = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.63.255.255", "::ffff:8.8.8.8", "2606:4700:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_an_address_that_is_not_public_is_forbidden(address: str) -> None:
    assert address_allowed(ipaddress.ip_address(address)) is False


@pytest.mark.parametrize("address", ALLOWED)
def test_a_public_address_is_allowed(address: str) -> None:
    assert address_allowed(ipaddress.ip_address(address)) is True


@pytest.mark.parametrize(
    "url",
    [
        *(f"https://{a}/" for a in FORBIDDEN if ":" not in a),
        *(f"https://[{a}]/" for a in FORBIDDEN if ":" in a),
        "http://hooks.example.com/",
        "http://8.8.8.8/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "gopher://hooks.example.com/",
        "//hooks.example.com/",
        "hooks.example.com",
        "https://",
        "https:///path",
        "https://user@hooks.example.com/",
        "https://user:secret@hooks.example.com/",  # pragma: allowlist secret
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com:22/",
        "https://hooks.example.com:80/",
        "https://hooks.example.com:99999/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://postgres/",
        "https://db.internal/",
        "https://printer.local/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://017700000001/",
        "https://1.0.0.127.in-addr.arpa/",
        "https://[fe80::1%25eth0]/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com/\r\nHost: x",
        "https://حساب.example/",
        "https://hooks.example.com/" + "a" * 2000,
        "http://127.0.0.1:8000/",
        "",
    ],
)
def test_an_address_that_may_not_be_registered(url: str) -> None:
    with pytest.raises(ApiError) as refused:
        url_checked(url, loopback=False)

    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_request", "url")


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/", "https://hooks.example.com:8443/a?b=c", "https://8.8.8.8/", "https://[2606:4700::1]/"]
)
def test_an_address_that_may_be_registered_keeps_its_spelling(url: str) -> None:
    assert url_checked(url, loopback=False) == url


@pytest.mark.parametrize("url", ["http://127.0.0.2/", "http://localhost:8000/", "http://10.0.0.1/", "http://[::1]/"])
def test_where_loopback_is_allowed_it_is_127_0_0_1_and_nothing_else(url: str) -> None:
    assert url_checked("http://127.0.0.1:8000/hook", loopback=True) == "http://127.0.0.1:8000/hook"
    with pytest.raises(ApiError):
        url_checked(url, loopback=True)


async def attempt(url: str, session: aiohttp.ClientSession) -> Outcome:
    return await message_send(session, Message(url, "{}", {}), at=datetime.now(UTC), timeout_seconds=3)


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%eth0"], ["nonsense"]]
)
async def test_a_name_is_refused_when_any_of_its_addresses_is_forbidden(addresses: list[str]) -> None:
    resolver = CheckedResolver(lookup=lambda host, port: addresses)

    with pytest.raises(AddressForbidden):
        await resolver.resolve("hooks.example.com", 443)


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("127.0.0.1", "address_forbidden"),
        ("[::1]", "address_forbidden"),
        ("[::ffff:127.0.0.1]", "address_forbidden"),
        ("localhost", "address_forbidden"),
        ("0x7f000001", "address_forbidden"),
        ("2130706433", "address_invalid"),
        ("017700000001", "address_invalid"),
        ("127.1", "address_invalid"),
    ],
)
async def test_no_spelling_of_loopback_is_reached(host: str, error: str, receiver: Receiver) -> None:
    async with aiohttp.ClientSession(connector=connector(loopback=False)) as session:
        outcome = await attempt(f"http://{host}:{receiver.port}/", session)

    assert (outcome.error, outcome.status) == (error, None)
    assert receiver.requests == []


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server called hooks.example.com and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example.com")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "tls.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
    return server, client


class Rebinding:
    """DNS that answers something else the second time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0)


async def test_a_connection_goes_to_the_address_that_was_checked_and_asks_dns_once(
    certificate: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = certificate
    good = Receiver(server)
    # 127.0.0.1 plays a public address, 127.0.0.2 the private one to which the name is bound anew.
    monkeypatch.setattr(destinations, "address_allowed", lambda address: str(address) == "127.0.0.1")
    dns = Rebinding(["127.0.0.1"], ["127.0.0.2"])

    async with aiohttp.ClientSession(connector=connector(loopback=False, lookup=dns, ssl=client)) as session:
        first = await attempt(f"https://hooks.example.com:{good.port}/hook", session)
        asked = dns.asked
        second = await attempt(f"https://hooks.example.com:{good.port}/hook", session)
    good.stop()

    assert (first.status, asked) == (200, 1)
    assert good.requests[0].headers["host"] == f"hooks.example.com:{good.port}"
    assert (second.error, dns.asked, len(good.requests)) == ("address_forbidden", 2, 1)


async def test_the_certificate_must_be_that_of_the_name(certificate: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = certificate
    receiver = Receiver(server)

    def dns(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with aiohttp.ClientSession(connector=connector(loopback=True, lookup=dns, ssl=client)) as session:
        outcome = await attempt(f"https://other.example.com:{receiver.port}/", session)
    receiver.stop()

    assert (outcome.error, receiver.requests) == ("tls_failed", [])
