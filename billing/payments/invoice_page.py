"""The page behind a mailed pay link: what is due of one invoice, and a button that leads to its payment. Nothing else.

A GET changes nothing: mail scanners open every link. Where the button leads is our own row's word, never the request's.
"""

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils import translation
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from billing.events.models import Event
from billing.events.services import Actor
from billing.invoices.models import Invoice
from billing.invoices.paying import pay_link_read
from billing.invoices.printing import language_of
from iafactory.common.errors import ApiError
from iafactory.common.formats import money_text

from .manual import GATEWAY as MANUAL
from .models import ManualMethod, Payment
from .open_invoices import PayWish, invoice_order
from .wording import invoice_page_wording

_ACTOR = Actor(Event.ActorKind.SYSTEM, label="pay link")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def invoice_page(request: HttpRequest, token: str) -> HttpResponse:
    """`/payment/invoice/{token}`: what is due; POST opens a checkout and leads there, or says how to pay by hand."""
    invoice_id = pay_link_read(token)
    invoice = Invoice.objects.select_related("account").filter(pk=invoice_id).first() if invoice_id else None
    if invoice is None or invoice.number is None:
        say = invoice_page_wording(translation.get_language() or "en")
        return _page(request, {"title": say.expired_title, "message": say.expired}, status=404)
    with translation.override(language_of(invoice)):
        return _shown(request, invoice)


def _shown(request: HttpRequest, invoice: Invoice) -> HttpResponse:
    language = language_of(invoice)
    say = invoice_page_wording(language)
    context: dict[str, object] = {"title": say.title.format(number=invoice.number)}
    if request.method == "POST":
        try:
            payment = invoice_order(invoice=invoice, wish=PayWish(), actor=_ACTOR, language=language)
        except ApiError as error:
            if error.code == "charge_in_progress":
                return _page(request, context | {"message": say.charging, "state": "charging"}, status=error.status)
            if error.status == 503 or error.code == "no_gateway":
                return _page(request, context | {"message": say.failed}, status=error.status)
            # Paid or voided since the page was shown: it says so.
            payment = None
        if payment is not None and payment.gateway == MANUAL:
            return _page(request, context | _by_hand(payment, language))
        if payment is not None and payment.state == Payment.State.PENDING and payment.checkout_url:
            response = HttpResponseRedirect(payment.checkout_url)
            response.status_code = 303
            return response
        invoice.refresh_from_db()
    if invoice.state == Invoice.State.PAID:
        return _page(request, context | {"message": say.paid, "state": "paid"})
    if invoice.state not in (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE) or invoice.due <= 0:
        return _page(request, context | {"message": say.closed, "state": "closed"})
    due = money_text(invoice.due, invoice.currency)
    return _page(request, context | {"message": f"{say.due}: {due}", "button": say.pay, "state": "open"})


def _by_hand(payment: Payment, language: str) -> dict[str, object]:
    say = invoice_page_wording(language)
    method = ManualMethod.objects.filter(code=payment.method).first()
    return {
        "title": say.by_hand_title,
        "message": money_text(payment.amount, payment.currency),
        "instructions": method.instructions if method else "",
        "reference": say.by_hand.format(reference=payment.reference),
        "state": "by_hand",
    }


def _page(request: HttpRequest, context: dict[str, object], status: int = 200) -> HttpResponse:
    response = render(request, "billing/payments/invoice.html", context, status=status)
    # Its button leads on to a gateway, which browsers count as the form's address too.
    setattr(response, "_csp_update", {"form-action": ["https:"]})  # noqa: B010
    return response
