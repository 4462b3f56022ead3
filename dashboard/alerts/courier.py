"""The program that hands one message to one target, in a process of its own: `python -m dashboard.alerts.courier`.

It reads a JSON object from its input and writes one to its output. Apprise runs nowhere else: what a plugin logs, keeps or
hangs on ends with this process, and the process may neither start others, nor read our files, nor connect to addresses that
are not public, unless told so. It knows no settings and no database, and nothing of a target's address leaves it but the name
of the service.
"""

import ipaddress
import json
import logging
import os
import smtplib
import sys
from typing import Any

from iafactory.common.public_addresses import address_allowed

# Services that send to somebody. Those that reach into this machine (desktop, syslog, files) or that are programs are none.
_SERVICES = """
    mailto mailtos mailgun sendgrid ses postmark brevo resend sparkpost smtp2go mailersend o365
    slack discord mmost mmosts rocket rockets matrix matrixs gchat wxteams webex zulip workflow workflows ryver twist cliq
    tgram whatsapp whapi signal signals threema viber line wechat wecombot dingtalk feishu lark zoom nctalk nctalks
    ntfy ntfys gotify gotifys pover pbul onesignal fcm simplepush
    twilio vonage nexmo msgbird plivo sinch clickatell clicksend infobip bulksms bulkvs burstsms sns atalk d7sms msg91 octopush
    telnyx telesign 46elks elks seven voipms exotel kavenegar kaleyra smseagle smseagles smsmanager httpsms freemobile sfr cm
    pagerduty opsgenie betterstack ilert splunk victorops squadcast signl4 incidentio pagertree spike goalert goalerts
    json jsons form forms xml xmls
"""
SCHEMAS = frozenset(_SERVICES.split())
_NO_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")


# What a plugin may read: the libraries, certificates and tables of the system. Some take a message's template from a file that
# the address names, which would be a way to any secret of this machine.
_READABLE = tuple(
    os.path.realpath(folder)
    for folder in (
        sys.prefix,
        sys.base_prefix,
        os.path.dirname(os.__file__),
        "/etc/ssl",
        "/etc/pki",
        "/etc/mime.types",
        "/usr/lib",
        "/usr/share",
        "/dev/null",
        "/dev/urandom",
    )
)


class AddressForbidden(OSError):
    """The target leads to an address we do not connect to."""


class Trace:
    """What was seen while a message was sent, without any word of its address."""

    def __init__(self) -> None:
        self.forbidden = False
        self.status: int | None = None
        self.mail_code: int | None = None
        self.failure = ""

    def reason(self) -> str:
        """Why nothing was delivered, as a short code."""
        if self.forbidden:
            return "address_forbidden"
        if self.status is not None and not 200 <= self.status < 300:
            return f"http_{self.status}"
        if self.mail_code is not None:
            return f"smtp_{self.mail_code}"
        return self.failure or "refused"


def confine(trace: Trace, *, allow_private: bool) -> None:
    """From here on this process starts no other, reads no files but libraries, and connects to public addresses only."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            if not allow_private and not _public(arguments[1]):
                trace.forbidden = True
                raise AddressForbidden("not a public address")
        elif event == "open":
            if not _readable(arguments[0]):
                trace.failure = "file_forbidden"
                raise PermissionError("a target reads no file of ours")
        elif event in _NO_PROCESSES:
            raise PermissionError("a target starts no process")

    sys.addaudithook(watch)


def _readable(path: Any) -> bool:
    if not isinstance(path, str | bytes):
        # A descriptor that is open already.
        return True
    real = os.path.realpath(os.fsdecode(path))
    return any(real == root or real.startswith(root + os.sep) for root in _READABLE)


def _public(destination: Any) -> bool:
    try:
        return address_allowed(ipaddress.ip_address(str(destination[0]).partition("%")[0]))
    except (ValueError, TypeError, IndexError):
        # A name, or a socket of this machine: what is connected to has been resolved before.
        return False


def _observe(trace: Trace) -> None:
    """Note the last HTTP status, the mail server's refusal and kind of failure."""
    import requests

    send, getreply = requests.adapters.HTTPAdapter.send, smtplib.SMTP.getreply

    def observed_send(self: Any, *args: Any, **kwargs: Any) -> Any:
        trace.status = None
        try:
            answer = send(self, *args, **kwargs)
        except requests.exceptions.Timeout:
            trace.failure = "timeout"
            raise
        except requests.exceptions.SSLError:
            trace.failure = "tls_failed"
            raise
        except requests.exceptions.ConnectionError as error:
            trace.failure = "name_not_resolved" if "NameResolutionError" in repr(error) else "connection_failed"
            raise
        trace.status = answer.status_code
        return answer

    def observed_reply(self: Any) -> tuple[int, bytes]:
        try:
            code, text = getreply(self)
        except smtplib.SMTPServerDisconnected:
            trace.failure = "connection_broken"
            raise
        # What follows a refusal (a reset, a good-bye) is answered well.
        if code >= 400:
            trace.mail_code = code
        return code, text

    requests.adapters.HTTPAdapter.send = observed_send  # type: ignore[method-assign]
    smtplib.SMTP.getreply = observed_reply  # type: ignore[method-assign]


def _plugin(address: str) -> Any:
    """The Apprise object of `address`; None where it is none, or of a service that is not offered."""
    import apprise

    asset = apprise.AppriseAsset(
        app_id="IA Factory",
        app_desc="IA Factory",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        plugin_paths=[],
        secure_logging=True,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )
    made = apprise.Apprise.instantiate(address, asset=asset, suppress_exceptions=True)
    if made is None:
        return None
    own: set[str] = set()
    for names in (made.protocol, made.secure_protocol):
        own |= {names} if isinstance(names, str) else set(names or ())
    return made if own & SCHEMAS else None


def deliver(order: dict[str, Any]) -> dict[str, Any]:
    """Check the address of `order`, or send its message there. `service` is empty for an address that cannot be used."""
    logging.disable(logging.CRITICAL)
    trace = Trace()
    confine(trace, allow_private=bool(order["allow_private"]))
    plugin = _plugin(str(order["address"]))
    if plugin is None:
        return {"service": "", "sent": False, "error": "address_invalid"}
    service = str(plugin.service_name)
    if order["action"] == "check":
        return {"service": service, "sent": False, "error": ""}
    _observe(trace)
    try:
        sent = bool(plugin.notify(body=order["body"], title=order["title"], notify_type=order["type"]))
    except Exception as error:
        # A plugin may raise anything; its words may hold the address.
        return {"service": service, "sent": False, "error": type(error).__name__}
    return {"service": service, "sent": sent, "error": "" if sent else trace.reason()}


def main() -> None:
    """One order from the input, one answer to the output; whatever else is printed goes nowhere."""
    order = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    json.dump(deliver(order), answers)
    answers.flush()


if __name__ == "__main__":
    main()
