"""The roles that ship: groups of operators' rights, brought into line after every `migrate`.

A superuser may do everything besides. Operators can make groups of their own; those that ship follow this table.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from django.apps import AppConfig, apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.db import connections, transaction

OWNER = "Owner"
FINANCE = "Finance"
SUPPORT = "Support"
READ_ONLY = "Read-only"
ROLES = (OWNER, FINANCE, SUPPORT, READ_ONLY)

# What each role may do besides looking: `app.model` and verbs, or the model's own rights (`void` is `void_invoice`).
# The owner may do everything.
MAY: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    FINANCE: {
        "billing.autorenewalconsent": ("change",),
        "billing.billingprofile": ("add", "change"),
        "billing.booksverification": ("add",),
        "billing.coupon": ("add", "change", "delete"),
        "billing.creditpack": ("add", "change", "delete"),
        "billing.dayseal": ("add",),
        "billing.dispute": ("add", "change"),
        "billing.dunningstep": ("add", "change", "delete"),
        "billing.fxrate": ("add",),
        "billing.gatewaywebhook": ("replay",),
        "billing.invoice": ("finalise", "void", "writeoff", "credit", "mail"),
        "billing.lot": ("add", "change"),
        "billing.manualmethod": ("add", "change", "delete"),
        "billing.payment": ("change",),
        "billing.planprice": ("add",),
        "billing.reconciliationrow": ("resolve",),
        "billing.refund": ("add", "change"),
        "billing.savedcard": ("change",),
        "billing.sellerprofile": ("add", "change"),
        "billing.serviceprice": ("add", "change", "delete"),
        "billing.subscription": ("change", "extend"),
        "billing.taxrate": ("add", "change"),
        "dashboard.alert": ("acknowledge",),
        "dashboard.consoledraft": ("import",),
        "routing.budget": ("add", "change"),
    },
    SUPPORT: {
        "billing.account": ("change",),
        "billing.accountlimits": ("add", "change", "delete"),
        "billing.apikey": ("add", "change"),
        "billing.autorenewalconsent": ("change",),
        "billing.billingprofile": ("add", "change"),
        "billing.creditnotice": ("change",),
        "billing.invoice": ("mail",),
        "billing.membership": ("add", "change", "delete"),
        "billing.savedcard": ("change",),
        "billing.subscription": ("change", "extend"),
        "billing.user": ("add", "change", "mail_reset"),
        "billing.webhookdelivery": ("replay",),
        "billing.webhookendpoint": ("disable",),
        "dashboard.alert": ("acknowledge",),
        "ratelimit.abusesignal": ("change",),
        "ratelimit.networkblock": ("add", "change", "delete"),
    },
    READ_ONLY: {},
}

# What a role does not even see: support answers customers and has no business with what the operator earns.
HIDDEN: Mapping[str, tuple[str, ...]] = {
    SUPPORT: (
        "auth.group",
        "billing.booksverification",
        "billing.catalogrecord",
        "billing.dayseal",
        "billing.fxrate",
        "billing.ledgeraccount",
        "billing.ledgerentry",
        "billing.ledgertransaction",
        "billing.numberseries",
        "billing.reconciliation",
        "billing.reconciliationrow",
        "billing.sellerprofile",
        "billing.taxrate",
        "billing.usagearchive",
        "dashboard.alertdelivery",
        "dashboard.alertrule",
        "dashboard.alerttarget",
        "routing.budget",
        "routing.gatewaylimits",
        "routing.modelprice",
        "routing.planrouting",
        "routing.priceproposal",
        "routing.providercredential",
    ),
}


def rights_of(role: str, known: Iterable[str]) -> set[str]:
    """The rights of a role that ships, out of the `known` ones (`app.codename`)."""
    every = set(known)
    if role == OWNER:
        return every
    hidden = {right(model, "view") for model in HIDDEN.get(role, ())}
    seen = {name for name in every if name.partition(".")[2].startswith("view_")} - hidden
    return seen | {right(model, verb) for model, verbs in MAY[role].items() for verb in verbs}


def right(model: str, verb: str) -> str:
    """`billing.payment`, `change`: `billing.change_payment`."""
    app, _, name = model.partition(".")
    return f"{app}.{verb}_{name}"


def roles_sync(*, using: str = "default") -> None:
    """Make the groups that ship, each with exactly its rights; safe at any time and at once."""
    with transaction.atomic(using=using):
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('roles_sync'))")
        every = Permission.objects.using(using).select_related("content_type")
        permissions = {f"{one.content_type.app_label}.{one.codename}": one for one in every}
        for role in ROLES:
            group, _ = Group.objects.using(using).get_or_create(name=role)
            # Migrated back to before a model, its rights are gone.
            group.permissions.set([permissions[name] for name in rights_of(role, permissions) if name in permissions])


def roles_sync_after_migrate(sender: AppConfig, using: str = "default", **kwargs: Any) -> None:
    """After the last app of a `migrate`, when every model has its rights."""
    if sender is not list(apps.get_app_configs())[-1]:
        return
    # Django's own receiver may come after this one.
    create_permissions(sender, verbosity=0, using=using)
    if Group._meta.db_table in connections[using].introspection.table_names():
        roles_sync(using=using)
