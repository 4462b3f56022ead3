"""One box that finds whatever an operator was told: an e-mail, the beginning of a key, a number, or an id.

Each list has its own search, for its own rows; this one asks them all, by what has an index, and opens the only thing it finds.
"""

from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import User
from billing.accounts.selectors import accounts_matching
from iafactory.common.admin import change_url
from iafactory.common.ids import uuid_or_none

# Of each kind; who gets more has to say more.
MOST_HITS = 20
LONGEST_TERM = 200

# What names a row exactly, by model; an id finds each of them too.
_NAMES: dict[str, tuple[str, ...]] = {
    "billing.user": ("email__iexact",),
    "billing.invoice": ("number__iexact",),
    "billing.payment": ("reference", "checkout_id", "gateway_payment_id", "customer_reference__iexact"),
    "billing.refund": ("reference", "gateway_refund_id"),
    "billing.dispute": ("gateway_dispute_id",),
    "billing.gatewaywebhook": ("event_id",),
    "billing.subscription": (),
    "billing.apikey": (),
    "billing.usagerecord": (),
    "billing.hold": (),
    "billing.ledgertransaction": (),
    "billing.lot": (),
}


@dataclass(frozen=True, slots=True)
class Hit:
    """Something found: what kind of thing, how it calls itself, its page, and the account it belongs to."""

    kind: str
    text: str
    url: str
    account: str


def hits(user: User, term: str) -> list[Hit]:
    """What `term` names, among what `user` may see, accounts first."""
    term = term.strip()
    if not term or "\0" in term:
        return []
    found = _hits_of(user, "billing.account", accounts_matching(term))
    identifier = uuid_or_none(term)
    for label, names in _NAMES.items():
        wanted = Q()
        for name in names:
            wanted |= Q(**{name: term})
        if identifier is not None:
            wanted |= Q(pk=identifier)
        if wanted:
            found += _hits_of(user, label, apps.get_model(label)._default_manager.filter(wanted))
    return found


def _hits_of(user: User, label: str, rows: QuerySet[Any]) -> list[Hit]:
    app, name = label.split(".")
    if not user.has_perm(f"{app}.view_{name}"):
        return []
    has_account = any(field.name == "account" for field in rows.model._meta.get_fields())
    if has_account:
        rows = rows.select_related("account")
    kind = str(rows.model._meta.verbose_name).capitalize()
    return [Hit(kind, str(row), change_url(label, row.pk), _account_of(row) if has_account else "") for row in rows[:MOST_HITS]]


def _account_of(row: Model) -> str:
    account = getattr(row, "account", None)
    return "" if account is None else str(account)


def search_page(request: HttpRequest) -> HttpResponse:
    """What the box in the console's head found; the page of the only thing there is."""
    term = request.GET.get("q", "")[:LONGEST_TERM].strip()
    assert isinstance(request.user, User)
    found = hits(request.user, term)
    if len(found) == 1:
        return HttpResponseRedirect(found[0].url)
    context = {**admin.site.each_context(request), "title": _("Search"), "term": term, "hits": found, "most": MOST_HITS}
    return TemplateResponse(request, "admin/search.html", context)
