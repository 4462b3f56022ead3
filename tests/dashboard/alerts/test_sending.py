"""Messages arrive at real servers; what must not be reached is not; no address is ever said."""

import json
import logging
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from django.core import mail
from pytest_django import Settings

from dashboard.alerts import sending
from dashboard.alerts.sending import MAIL, Message, Outcome, message_send, service_of
from tests.billing.webhooks.receiver import Receiver

from .conftest import json_address
from .sinks import MailSink
from .test_conditions import self_signed

# Of the shape that services give out.
KEY = "0123456789abcdef" * 2
PASSWORD = "very-secret"
MESSAGE = Message("[critical] Provider groq is down", "None of its 3 routes works.", "failure")


def test_a_webhook_gets_title_text_and_kind(receiver: Receiver) -> None:
    outcome = message_send(json_address(receiver), MESSAGE)

    assert outcome == Outcome("JSON")
    [request] = receiver.requests
    body = json.loads(request.body)
    assert (request.path, body["title"], body["message"], body["type"]) == (
        "/hook",
        "[critical] Provider groq is down",
        "None of its 3 routes works.",
        "failure",
    )


@pytest.mark.parametrize("scheme", ["form", "xml"])
def test_other_kinds_of_webhook_arrive_too(receiver: Receiver, scheme: str) -> None:
    outcome = message_send(f"{scheme}://127.0.0.1:{receiver.port}/hook", MESSAGE)

    assert outcome.error == ""
    assert "None of its 3 routes works." in receiver.requests[0].body.replace("+", " ")


def test_a_mail_server_of_their_own_gets_a_mail(mail_sink: MailSink) -> None:
    address = f"mailto://127.0.0.1:{mail_sink.port}?from=alerts@example.com&to=night@example.com&mode=insecure"

    outcome = message_send(address, MESSAGE)

    assert outcome == Outcome("E-Mail")
    [text] = mail_sink.mails
    assert "To: night@example.com" in text
    assert "Subject: [critical] Provider groq is down" in text
    assert "None of its 3 routes works." in text


def test_a_mail_server_that_refuses_is_told_by_its_code(mail_sink: MailSink) -> None:
    mail_sink.refuse = 550

    outcome = message_send(f"mailto://127.0.0.1:{mail_sink.port}?from=a@example.com&to=b@example.com", MESSAGE)

    assert outcome == Outcome("E-Mail", "smtp_550")
    assert mail_sink.mails == []


def test_a_plain_e_mail_address_goes_through_the_products_mail() -> None:
    outcome = message_send("night@example.com", MESSAGE)

    assert outcome == Outcome(MAIL)
    [sent] = mail.outbox
    assert (sent.to, sent.subject) == (["night@example.com"], "[critical] Provider groq is down")


def test_the_products_mail_server_that_refuses_is_told_by_its_code(mail_sink: MailSink, settings: Settings) -> None:
    mail_sink.refuse = 550
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", mail_sink.port

    assert message_send("night@example.com", MESSAGE) == Outcome(MAIL, "smtp_550")
    assert mail_sink.mails == []


@pytest.mark.parametrize("status", [301, 404, 500])
def test_a_refusal_is_told_by_its_status(receiver: Receiver, status: int) -> None:
    receiver.behave(status=status)

    assert message_send(json_address(receiver), MESSAGE) == Outcome("JSON", f"http_{status}")


def test_nobody_there_is_told_as_such() -> None:
    assert message_send("json://127.0.0.1:9/hook", MESSAGE) == Outcome("JSON", "connection_failed")


def test_a_target_that_never_ends_is_left_in_time(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "COURIER_SECONDS", 2)
    receiver.behave(drip_seconds=0.2)

    assert message_send(json_address(receiver), MESSAGE) == Outcome("", "timeout")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "0x7f000001", "2130706433"])
def test_private_addresses_are_not_connected_to(receiver: Receiver, settings: Settings, host: str) -> None:
    settings.ALERTS_ALLOW_PRIVATE_TARGETS = False

    outcome = message_send(f"json://{host}:{receiver.port}/hook", MESSAGE)

    assert outcome.error in ("address_forbidden", "address_invalid")
    assert receiver.requests == []


def test_a_private_mail_server_is_not_connected_to(mail_sink: MailSink, settings: Settings) -> None:
    settings.ALERTS_ALLOW_PRIVATE_TARGETS = False

    outcome = message_send(f"mailto://127.0.0.1:{mail_sink.port}?from=a@example.com&to=b@example.com", MESSAGE)

    assert outcome == Outcome("E-Mail", "address_forbidden")
    assert mail_sink.mails == []


@pytest.mark.parametrize(
    ("address", "service"),
    [
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("tgram://123456789:abcdefg_hijklmnop/12315544", "Telegram"),
        ("whatsapp://tok@123456789012345/15551234567", "WhatsApp"),
        (f"vonage://key12345:{KEY}@15551234567/15557654321", "Vonage"),
        (f"twilio://AC{KEY}:{KEY}@15551234567/15557654321", "Twilio"),
        ("jsons://hooks.example.com/x", "JSON"),
        ("night@example.com", MAIL),
        ("syslog://", None),
        ("dbus://", None),
        ("windows://", None),
        ("file:///etc/passwd", None),
        ("http://example.com", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_an_address_is_named_by_its_service_or_refused(address: str, service: str | None) -> None:
    assert service_of(address) == service


def test_neither_log_nor_answer_says_the_address(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.behave(status=403)
    address = f"json://user:{PASSWORD}@127.0.0.1:{receiver.port}/token-0123456789?+X-Key=key-9876"
    caplog.set_level(logging.DEBUG)
    order = {"action": "send", "address": address, "title": "t", "body": "b", "type": "info", "allow_private": True}

    done = subprocess.run(
        [sys.executable, "-m", "dashboard.alerts.courier"], input=json.dumps(order), capture_output=True, text=True
    )
    outcome = message_send(address, MESSAGE)

    assert json.loads(done.stdout) == {"service": "JSON", "sent": False, "error": "http_403"}
    assert done.stderr == ""
    assert outcome == Outcome("JSON", "http_403")
    assert [word for word in (PASSWORD, "token-0123", "key-9876") if word in caplog.text] == []


def confined(code: str) -> str:
    """What a Python process says that runs `code` once it is confined as the courier is."""
    begin = "from dashboard.alerts.courier import Trace, confine\nconfine(Trace(), allow_private=False)\n"
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().rpartition("\n")[2]


def test_the_courier_reads_no_file_of_ours_and_starts_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secrets.env"
    secret.write_text("SECRET_KEY=x")

    assert confined(f"open({str(secret)!r})") == "PermissionError: a target reads no file of ours"
    assert confined("open('/etc/passwd')") == "PermissionError: a target reads no file of ours"
    assert confined("open('/proc/self/environ')") == "PermissionError: a target reads no file of ours"
    assert confined("import subprocess; subprocess.run(['/bin/true'])") == "PermissionError: a target starts no process"
    assert confined("import os; os.system('true')") == "PermissionError: a target starts no process"
    assert confined("import json, ssl, smtplib, requests; ssl.create_default_context(); print('works')") == "works"


def test_a_webhook_over_tls_gets_its_message(tmp_path: Path) -> None:
    file, _ends = self_signed(tmp_path, 30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = Receiver(tls=context)
    try:
        trusted = message_send(f"jsons://127.0.0.1:{server.port}/hook?verify=no", MESSAGE)
        doubtful = message_send(f"jsons://127.0.0.1:{server.port}/hook", MESSAGE)
    finally:
        server.stop()

    assert (trusted, doubtful) == (Outcome("JSON"), Outcome("JSON", "tls_failed"))


def test_the_courier_gets_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, dict[str, str]] = {}
    monkeypatch.setattr(subprocess, "run", lambda *args, env, **options: seen.update(env=env) or _done())

    message_send("json://127.0.0.1:9/hook", MESSAGE)

    assert seen["env"].keys() <= {"PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}


def _done() -> "subprocess.CompletedProcess[str]":
    return subprocess.CompletedProcess([], 0, stdout='{"service": "JSON", "error": ""}')
