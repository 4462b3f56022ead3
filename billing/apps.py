from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


def _lay_foundations(*, using: str, **kwargs: Any) -> None:
    from .ledger.foundations import foundations_ensure

    foundations_ensure(using=using)


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = _("Billing")

    def ready(self) -> None:
        from .invoices.paying import automatic_payments_from
        from .invoices.verification import CHECKS as INVOICE_CHECKS
        from .ledger.verification import checks_register
        from .marketplace import checks as marketplace_checks  # noqa: F401
        from .payments import checks  # noqa: F401
        from .payments.renewal_charges import automatic_payment_of
        from .payments.verification import CHECKS as PAYMENT_CHECKS

        checks_register(*INVOICE_CHECKS, *PAYMENT_CHECKS)
        automatic_payments_from(automatic_payment_of)
        post_migrate.connect(_lay_foundations, sender=self)
