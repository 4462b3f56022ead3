"""Why things happened, where the product itself says so: rows keep English sentences or codes, people read their language.

What an operator or a provider wrote stays as it is, beside our words.
"""

import re
from functools import cache

from iafactory.common.texts import Text

# Sentences of the product, as rows keep them.
SENTENCES = (
    Text("Another change was asked for"),
    Text("Another checkout began"),
    Text("Another way to pay was chosen"),
    Text("Canceled at the period's end"),
    Text("Charged before under the same idempotency key."),
    Text("Credits to try the product with"),
    Text("Demo"),
    Text("Its payment came late"),
    Text("None of FIELD_ENCRYPTION_KEYS decrypts it."),
    Text("Nobody waited for it."),
    Text("Not paid in time"),
    Text("Not paid within the grace time"),
    Text("Nothing is to be paid any more"),
    Text("Period begins"),
    Text("Put aside for an invoice"),
    Text("Removed by its owner"),
    Text("Replaced by a new demo key"),
    Text("Replaced by another plan"),
    Text("Sold on another page"),
    Text("The account there is empty."),
    Text("The account was closed"),
    Text("The card was removed"),
    Text("The gateway does not know it any more"),
    Text("The period began unpaid"),
    Text("The plan does not renew"),
    Text("The plan ended"),
    Text("The plan was changed"),
    Text("The plan was replaced"),
    Text("The process serving the call died; the worst case is assumed."),
    Text("The provider has no model in use that is cheap enough to try it with."),
    Text("The provider refused it."),
    Text("The saved card is charged"),
    Text("The subscription ended"),
    Text("The subscription was canceled"),
    Text("The subscription was paused"),
    Text("asked"),
    Text("by an operator"),
    Text("it could not be closed"),
    Text("limits removed"),
    Text("nothing was accepted for three days"),
    Text("not seen again"),
    Text("reported as leaked"),
    Text("the block ended"),
    Text("the buyer came back"),
    Text("the endpoint answered 410 Gone"),
    # Why a route was left out of a call, or was not called.
    Text("breaker half open, others are trying"),
    Text("breaker open"),
    Text("draining"),
    Text("input too long"),
    Text("its credentials rest"),
    Text("not free"),
    Text("price unknown"),
    Text("too many retries at the moment"),
)
# Sentences around a name, or around a reason of its own.
PATTERNS = (
    Text("Dispute %(name)s"),
    Text("Hold %(name)s released"),
    Text("Hold %(name)s"),
    Text("Invoice %(name)s"),
    Text("Payment %(name)s is contested"),
    Text("Refund %(name)s: %(reason)s"),
    Text("Second money for %(name)s"),
    Text("Service %(name)s"),
    Text("breaker open: %(reason)s"),
    Text("cannot express %(name)s"),
    Text("failed: %(reason)s"),
    Text("full: %(name)s"),
    Text("granted by %(name)s"),
    Text("rotated: %(reason)s"),
)
# How a call to a provider failed: the code that health, checks and credentials keep.
FAILURES = {
    "auth": Text("key refused"),
    "bad_request": Text("request rejected"),
    "internal": Text("failed to answer"),
    "no_funds": Text("no money left in our account there"),
    "overloaded": Text("overloaded or out of reach"),
    "rate_limited": Text("too many calls"),
    "refused": Text("refused for its content"),
    "timeout": Text("no answer in time"),
    "truncated": Text("answer broke off"),
}


def reason_said(reason: str) -> Text:
    """A reason as a text that can be read in any language: `auth: Invalid API key` is "key refused: Invalid API key"."""
    code, colon, said = reason.partition(": ")
    if code in FAILURES:
        return Text("%(failure)s: %(said)s", failure=FAILURES[code], said=said) if colon else FAILURES[code]
    for template in map(str, PATTERNS):
        if found := _pattern(template).fullmatch(reason):
            values = {name: reason_said(value) if name == "reason" else value for name, value in found.groupdict().items()}
            return Text(template, **values)
    return Text(reason)


def reason_text(reason: str) -> str:
    """A reason in the language of the page."""
    return reason_said(reason).translated()


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"%\((\w+)\)s", template)
    return re.compile("".join(f"(?P<{part}>.+)" if number % 2 else re.escape(part) for number, part in enumerate(parts)))
