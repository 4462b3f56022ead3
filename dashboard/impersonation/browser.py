"""Which customer the browser of an operator looks at. The console's session keeps the id alone, and the panel alone reads it.

So the operator stays who they are in the console, and the panel acts with the customer's rights and no others.
"""

from django.http import HttpRequest

from billing.accounts.models import User
from dashboard.two_factor.pages import proven
from iafactory.common import clock

from .models import Impersonation
from .services import Ending, impersonation_end, over

SESSION_KEY = "impersonation"


class ImpersonationOver(Exception):
    """It has ended, here or before. Carries the row, whose account's page the operator goes back to; None where it is gone."""

    def __init__(self, impersonation: Impersonation | None) -> None:
        super().__init__("The impersonation is over.")
        self.impersonation = impersonation


def browser_sees(request: HttpRequest, impersonation: Impersonation) -> None:
    """From now on the panel shows this browser what the customer sees."""
    request.session[SESSION_KEY] = str(impersonation.pk)


def seen_as(request: HttpRequest) -> Impersonation | None:
    """As whom this browser's operator is logged in; None for everybody else, without a query.

    Raises ImpersonationOver where that has ended, and forgets it: the panel must not fall back to the operator's own account
    unnoticed.
    """
    identifier = request.session.get(SESSION_KEY)
    if identifier is None:
        return None
    rows = Impersonation.objects.select_related("operator", "user", "account")
    # The operator of the session and of the row are one, or the id is worth nothing.
    operator_id = request.user.pk if isinstance(request.user, User) else None
    row = rows.filter(pk=str(identifier), operator_id=operator_id).first()
    if row is None or row.ended_at is not None:
        del request.session[SESSION_KEY]
        raise ImpersonationOver(row)
    ending = over(row, now=clock.now()) if proven(request) else Ending.WITHDRAWN
    if ending is not None:
        browser_forgets(request, ending)
        raise ImpersonationOver(row)
    return row


def browser_forgets(request: HttpRequest, ending: str) -> Impersonation | None:
    """End what this browser looks at, if anything; the row, for the way back."""
    identifier = request.session.pop(SESSION_KEY, None)
    if identifier is None:
        return None
    row = Impersonation.objects.select_related("account").filter(pk=str(identifier)).first()
    if row is not None and row.operator_id == request.user.pk:
        impersonation_end(impersonation=row, ending=ending)
    return row
