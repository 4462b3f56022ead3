"""Who may what: every page and every action of the console, tried by each role, against one table."""

from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.db import models
from django.test import Client
from django.urls import reverse

from billing.abuse.admin import DEEDS as ABUSE_DEEDS
from billing.accounts.models import User
from billing.events.admin import AuditedModelAdmin
from billing.events.models import Event
from billing.invoices.admin import DEEDS as INVOICE_DEEDS
from billing.models import PaymentProof
from dashboard.roles import FINANCE, HIDDEN, MAY, OWNER, READ_ONLY, ROLES, SUPPORT, right, roles_sync
from iafactory.common.admin import ReadOnlyAdmin

from .conftest import PASSWORD
from .test_console_pages import text_of

Populate = Callable[[int, int], None]

# v: its list and its pages open; a: may add; c: may change; d: may delete what no history holds.
PAGES = """
                                 owner    finance  support  read-only
auth.group                       vacd     v        -        v
billing.account                  vc       v        vc       v
billing.accountlimits            vacd     v        vacd     v
billing.apikey                   v        v        v        v
billing.autorenewalconsent       v        v        v        v
billing.billingprofile           vacd     vac      vac      v
billing.booksverification        v        v        -        v
billing.catalogrecord            v        v        -        v
billing.coupon                   vac      vac      v        v
billing.couponredemption         v        v        v        v
billing.creditnotice             vc       v        vc       v
billing.creditpack               vacd     vacd     v        v
billing.customernotice           v        v        v        v
billing.dayseal                  v        v        -        v
billing.dispute                  v        v        v        v
billing.dunningnotice            v        v        v        v
billing.dunningstep              vacd     vacd     v        v
billing.event                    v        v        v        v
billing.fxrate                   va       va       -        v
billing.gatewaywebhook           v        v        v        v
billing.hold                     v        v        v        v
billing.invoice                  v        v        v        v
billing.jobrun                   v        v        v        v
billing.ledgeraccount            v        v        -        v
billing.ledgerentry              v        v        -        v
billing.ledgertransaction        v        v        -        v
billing.lot                      v        v        v        v
billing.manualmethod             vacd     vacd     v        v
billing.marketplaceaccount       v        v        v        v
billing.marketplaceplan          vacd     v        v        v
billing.membership               vacd     v        vacd     v
billing.moneybalance             v        v        v        v
billing.noticepreference         v        v        v        v
billing.numberseries             v        v        -        v
billing.payment                  v        v        v        v
billing.plan                     vac      v        v        v
billing.planprice                va       va       v        v
billing.pricemove                v        v        v        v
billing.reconciliation           v        v        -        v
billing.reconciliationrow        v        v        -        v
billing.refund                   v        v        v        v
billing.savedcard                v        v        v        v
billing.sellerprofile            vac      vac      -        v
billing.serviceprice             vacd     vacd     v        v
billing.storedanswer             v        v        v        v
billing.subscription             v        v        v        v
billing.taxrate                  vac      vac      -        v
billing.usagearchive             v        v        -        v
billing.usagerecord              v        v        v        v
billing.user                     vac      v        vac      v
billing.wallet                   v        v        v        v
billing.webhookdelivery          v        v        v        v
billing.webhookendpoint          v        v        v        v
dashboard.alert                  v        v        v        v
dashboard.alertdelivery          v        v        -        v
dashboard.alertrule              vac      v        -        v
dashboard.alerttarget            vacd     v        -        v
dashboard.impersonation          v        v        v        v
django_celery_beat.periodictask  vc       v        v        v
ratelimit.abusesignal            v        v        v        v
ratelimit.networkblock           vacd     v        vacd     v
routing.aimodel                  vac      v        v        v
routing.budget                   vacd     vac      -        v
routing.gatewaylimits            vcd      v        -        v
routing.healthcheck              v        v        v        v
routing.modelprice               va       v        -        v
routing.modelprofile             vac      v        v        v
routing.planrouting              vacd     v        -        v
routing.priceproposal            v        v        -        v
routing.profilehealth            v        v        v        v
routing.provider                 vac      v        v        v
routing.providercredential       vacd     v        -        v
"""

# What is done to rows beside editing them, and pages of their own. x: may.
ACTIONS = """
                                      owner finance support read-only
billing.account grant                   x      x       -        -
billing.account block                   x      -       x        -
billing.account unblock                 x      -       x        -
billing.account new_key                 x      -       x        -
billing.account send_reset              x      -       x        -
billing.account log_in_as               x      -       -        -
billing.apikey revoke                   x      -       x        -
billing.apikey limits                   x      -       x        -
billing.autorenewalconsent deed withdraw x      x       x        -
billing.booksverification ask           x      x       -        -
billing.dayseal ask                     x      x       -        -
billing.dispute deed lost               x      x       -        -
billing.dispute deed won                x      x       -        -
billing.gatewaywebhook replay           x      x       -        -
billing.invoice export                  x      x       x        x
billing.invoice pdf                     x      x       x        x
billing.invoice act finalise            x      x       -        -
billing.invoice act void                x      x       -        -
billing.invoice act writeoff            x      x       -        -
billing.invoice act credit              x      x       -        -
billing.invoice act mail                x      x       x        -
billing.ledgerentry csv                 x       x       -        x
billing.ledgertransaction csv           x       x       -        x
billing.lot void                        x      x       -        -
billing.lot refund                      x      x       -        -
billing.lot refund_failed               x      x       -        -
billing.lot dispute_lost                x      x       -        -
billing.lot dispute_won                 x      x       -        -
billing.payment proof                   x      x       x        x
billing.payment deed confirm            x      x       -        -
billing.payment deed reject             x      x       -        -
billing.payment deed apply              x      x       -        -
billing.payment deed keep               x      x       -        -
billing.payment deed refund             x      x       -        -
billing.payment deed dispute            x      x       -        -
billing.payment deed ask                x       x       -        -
billing.plan economics                  x      x       x        x
billing.plan import                     x      -       -        -
billing.plan publish                    x      -       -        -
billing.planprice change_price          x      x       -        -
billing.planprice import                x      x       -        -
billing.pricemove deed stop             x      x       x        -
billing.reconciliation deed again       x      x       -        -
billing.reconciliationrow deed apply    x      x       -        -
billing.reconciliationrow deed keep     x      x       -        -
billing.reconciliationrow deed refund   x      x       -        -
billing.reconciliationrow deed explain  x      x       -        -
billing.reconciliationrow deed recheck  x      x       -        -
billing.refund deed approve             x      x       -        -
billing.refund deed confirm             x      x       -        -
billing.refund deed reject              x      x       -        -
billing.savedcard deed remove           x       x       x        -
billing.subscription deed change-plan   x      x       x        -
billing.subscription deed forget-change x       x       x        -
billing.subscription deed extend        x      x       x        -
billing.subscription deed cancel        x      x       x        -
billing.subscription deed cancel-now    x      x       x        -
billing.subscription deed pause         x      x       x        -
billing.subscription deed resume        x      x       x        -
billing.subscription price_migration    x      x       x        -
billing.usagerecord csv                 x       x       x        x
billing.user operator_key               x      -       x        -
billing.user reset_two_factor           x      -       -        -
billing.user auth_user_password_change  x      -       x        -
billing.webhookdelivery replay          x      -       x        -
billing.webhookendpoint act disable     x      -       x        -
billing.webhookendpoint act enable      x      -       x        -
dashboard.alert acknowledge             x      x       x        -
dashboard.alerttarget test              x      -       -        -
django_celery_beat.periodictask run     x      -       -        -
ratelimit.abusesignal act warn          x      -       x        -
ratelimit.abusesignal act slow-down     x      -       x        -
ratelimit.abusesignal act ban           x      -       x        -
ratelimit.abusesignal act dismiss       x      -       x        -
routing.modelprice import               x      -       -        -
routing.priceproposal import            x      -       -        -
routing.priceproposal unpriced          x      x       x        x
routing.priceproposal close             x      -       -        -
routing.provider connect                x      -       -        -
routing.providercredential rotate       x      -       -        -
routing.providercredential test         x      -       -        -
routing.providercredential enable       x      -       -        -
routing.providercredential disable      x      -       -        -
"""

# Actions on selected rows of a list.
SELECTED = """
                                                 owner finance support read-only
billing.account grant_selected                     x      x       -        -
billing.apikey revoke_selected                     x      -       x        -
billing.gatewaywebhook replay_selected             x      x       -        -
billing.webhookdelivery replay_selected            x      -       x        -
django_celery_beat.periodictask switch_on          x      -       -        -
django_celery_beat.periodictask switch_off         x      -       -        -
django_celery_beat.periodictask run_selected       x      -       -        -
ratelimit.abusesignal warn_selected                x      -       x        -
ratelimit.abusesignal slow_down_selected           x      -       x        -
ratelimit.abusesignal ban_selected                 x      -       x        -
ratelimit.abusesignal dismiss_selected             x      -       x        -
routing.profilehealth check_now                    x      -       -        -
routing.profilehealth open_breaker                 x      -       -        -
routing.profilehealth close_breaker                x      -       -        -
routing.profilehealth forget                       x      -       -        -
routing.profilehealth drain                        x      -       -        -
routing.profilehealth undrain                      x      -       -        -
routing.providercredential test_selected           x      -       -        -
"""

# Their own services write the events of what is done to them here.
AUDITED_BY_SERVICES = {
    "billing.creditnotice",
    "billing.fxrate",
    "billing.planprice",
    "django_celery_beat.periodictask",
    "ratelimit.networkblock",
    "routing.modelprice",
}
MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label_lower)
by_role = pytest.mark.parametrize("role", ROLES)


def table(text: str) -> dict[str, list[str]]:
    """Each line's name and its four cells."""
    lines = [line.split() for line in text.strip().splitlines()[1:]]
    return {" ".join(words[:-4]): words[-4:] for words in lines}


def column(text: str, role: str) -> dict[str, str]:
    return {name: cells[ROLES.index(role)] for name, cells in table(text).items()}


def member(role: str) -> User:
    user = User.objects.create_user(f"{role.lower()}@example.com", PASSWORD, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return user


def browser(role: str) -> Client:
    client = Client()
    client.force_login(member(role))
    return client


def address(model: type[models.Model], page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def row_of(model: type[models.Model]) -> Any:
    """A row with less behind it than others; of users a customer."""
    rows = model._default_manager.filter(is_staff=False) if model is User else model._default_manager.all()
    return rows.order_by("pk").last()


def letters(client: Client, model: type[models.Model]) -> str:
    """What the console lets this browser do with `model`, as the table spells it."""
    changelist, add = client.get(address(model, "changelist")), client.get(address(model, "add"))
    page = client.get(address(model, "change", row_of(model).pk))
    assert {changelist.status_code, page.status_code, add.status_code} <= {200, 403}
    found = "v" if changelist.status_code == 200 and page.status_code == 200 else ""
    found += "a" if add.status_code == 200 else ""
    found += "c" if page.status_code == 200 and page.context.get("has_change_permission") else ""
    found += "d" if page.status_code == 200 and page.context.get("has_delete_permission") else ""
    return found or "-"


def action_addresses() -> dict[str, tuple[type[models.Model], str]]:
    """Every address of the console beside Django's own five a model, by its name in the table: model and address."""
    found = {}
    for model in MODELS:
        model_admin: Any = admin.site._registry[model]
        prefix = f"{model._meta.app_label}_{model._meta.model_name}_"
        for pattern in model_admin.get_urls():
            name = (pattern.name or "").removeprefix(prefix)
            if not pattern.name or name in ("add", "changelist", "history", "delete", "change"):
                continue
            for deed, arguments in _arguments(model, model_admin, name, dict(pattern.pattern.converters)):
                words = f"{model._meta.label_lower} {name} {deed}".strip()
                found[words] = (model, reverse(f"admin:{pattern.name}", kwargs=arguments))
    return found


def _arguments(model: Any, model_admin: Any, name: str, converters: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    def value(argument: str) -> Any:
        if argument == "proof_id":
            return PaymentProof.objects.all()[0].pk
        if argument == "price_id":
            return apps.get_model("billing.PlanPrice")._default_manager.all()[0].pk
        if name in ("operator_key", "reset_two_factor"):
            return User.objects.get_or_create(email="colleague@example.com", is_staff=True)[0].pk
        return row_of(model).pk

    keys = {argument: value(argument) for argument in converters if argument != "name"}
    if "name" not in converters:
        return [("", keys)]
    deeds = {
        "billing.invoice": INVOICE_DEEDS,
        "billing.webhookendpoint": ("disable", "enable"),
        "ratelimit.abusesignal": ABUSE_DEEDS,
    }.get(model._meta.label_lower) or model_admin.deeds
    return [(deed, {**keys, "name": deed}) for deed in deeds]


@by_role
def test_pages(populate: Populate, role: str) -> None:
    populate(1, 1)
    client = browser(role)

    found = {model._meta.label_lower: letters(client, model) for model in MODELS}

    assert found == column(PAGES, role)


@by_role
def test_actions(operator: User, populate: Populate, role: str) -> None:
    populate(1, 1)
    client = browser(role)
    expected = column(ACTIONS, role)
    addresses = action_addresses()

    found = {name: "-" if client.post(url).status_code == 403 else "x" for name, (_, url) in addresses.items()}

    assert found == expected


@by_role
def test_buttons_are_shown_to_who_may_press_them(operator: User, populate: Populate, role: str) -> None:
    populate(1, 1)
    client = browser(role)
    refused = [name for name, cell in column(ACTIONS, role).items() if cell == "-"]
    addresses = action_addresses()
    pages = {model: _pages_of(client, model) for model, _ in addresses.values()}

    shown = [name for name in refused if addresses[name][1].partition("?")[0] in pages[addresses[name][0]]]

    assert shown == []


def _pages_of(client: Client, model: type[models.Model]) -> str:
    answers = (client.get(address(model, "changelist")), client.get(address(model, "change", row_of(model).pk)))
    return "".join(answer.content.decode() for answer in answers)


@by_role
def test_actions_on_selected_rows(populate: Populate, role: str) -> None:
    populate(1, 1)
    client = browser(role)
    expected = column(SELECTED, role)

    offered = {}
    for name in expected:
        label, _, action = name.partition(" ")
        page = client.get(address(apps.get_model(label), "changelist"))
        form = page.context.get("action_form") if page.status_code == 200 else None
        offered[name] = "x" if form and action in dict(form.fields["action"].choices) else "-"

    assert offered == expected


@by_role
def test_actions_that_are_not_offered_do_nothing(populate: Populate, role: str) -> None:
    populate(1, 1)
    client = browser(role)
    refused = [name.split() for name, cell in column(SELECTED, role).items() if cell == "-"]
    before = Event.objects.count()

    answers = [
        client.post(address(model, "changelist"), {"action": action, "_selected_action": [row_of(model).pk]})
        for label, action in refused
        for model in [apps.get_model(label)]
    ]

    assert {answer.status_code for answer in answers} <= {200, 302, 403}
    assert [answer["location"] for answer in answers if answer.status_code == 302 and "/changelist" in answer["location"]] == []
    assert Event.objects.count() == before


def test_the_table_names_every_action_on_selected_rows(operator: User) -> None:
    actions = {
        f"{model._meta.label_lower} {action if isinstance(action, str) else action.__name__}"
        for model, model_admin in admin.site._registry.items()
        for action in model_admin.actions or ()
    }

    assert actions == set(table(SELECTED))


def test_every_edit_is_audited() -> None:
    editable = {
        model._meta.label_lower
        for model, model_admin in admin.site._registry.items()
        if not isinstance(model_admin, AuditedModelAdmin | ReadOnlyAdmin)
    }

    assert editable == AUDITED_BY_SERVICES


# --- The groups themselves ---


def test_every_right_in_the_roles_exists(db: None) -> None:
    known = {f"{app}.{name}" for app, name in Permission.objects.values_list("content_type__app_label", "codename")}
    named = {right(model, verb) for models_ in MAY.values() for model, verbs in models_.items() for verb in verbs}
    hidden = {right(model, "view") for models_ in HIDDEN.values() for model in models_}

    assert (named | hidden) - known == set()


def test_roles_are_brought_back_into_line(db: None) -> None:
    group = Group.objects.get(name=READ_ONLY)
    group.permissions.add(Permission.objects.get(codename="change_account"))
    Group.objects.get(name=FINANCE).delete()

    roles_sync()

    assert {name.partition("_")[0] for name in group.permissions.values_list("codename", flat=True)} == {"view"}
    assert Group.objects.get(name=FINANCE).permissions.filter(codename="add_refund").exists()


def test_shipped_groups_are_not_edited_and_own_ones_are_with_an_event(db: None) -> None:
    client = browser(OWNER)
    own = Group.objects.create(name="Night shift")
    shipped = Group.objects.get(name=SUPPORT)
    view_account = Permission.objects.get(codename="view_account").pk

    refused = client.post(address(Group, "change", shipped.pk), {"name": "X"})
    kept = client.post(address(Group, "delete", shipped.pk), {"post": "yes"})
    changed = client.post(address(Group, "change", own.pk), {"name": "Night shift", "permissions": [view_account]})

    assert (refused.status_code, kept.status_code, changed.status_code) == (403, 403, 302)
    event = Event.objects.get(kind="group.edited")
    assert (event.before, len(event.after["permissions"])) == ({"permissions": []}, 1)


def test_an_owner_appoints_operators_but_no_superuser(db: None) -> None:
    client = browser(OWNER)
    clerk = User.objects.create_user("clerk@example.com", PASSWORD)
    support = Group.objects.get(name=SUPPORT)
    page = address(User, "change", clerk.pk)
    data = {"email": clerk.email, "name": "Clerk", "language": "en", "is_active": "on", "is_staff": "on", "is_superuser": "on"}

    answer = client.post(page, {**data, "groups": [support.pk], "user_permissions": []})

    clerk.refresh_from_db()
    assert answer.status_code == 302, text_of(answer)
    assert (clerk.is_staff, clerk.is_superuser, list(clerk.groups.all())) == (True, False, [support])
    event = Event.objects.get(kind="user.edited")
    assert (event.after["groups"], event.before["groups"]) == (["Support"], [])


def test_support_appoints_nobody(db: None) -> None:
    client = browser(SUPPORT)
    clerk = User.objects.create_user("clerk@example.com", PASSWORD)
    owner = Group.objects.get(name=OWNER)
    data = {"email": clerk.email, "name": "Clerk", "language": "en", "is_active": "on", "is_staff": "on"}

    client.post(address(User, "change", clerk.pk), {**data, "groups": [owner.pk]})
    own = client.post(address(User, "change", User.objects.get(email="support@example.com").pk), {**data, "groups": [owner.pk]})

    clerk.refresh_from_db()
    assert (clerk.name, clerk.is_staff, clerk.groups.count()) == ("Clerk", False, 0)
    assert own.status_code in (200, 302, 403)
    assert list(User.objects.get(groups=Group.objects.get(name=SUPPORT)).groups.all()) == [Group.objects.get(name=SUPPORT)]


def test_an_owner_does_not_touch_a_superuser(db: None, operator: User) -> None:
    client = browser(OWNER)

    answer = client.post(address(User, "change", operator.pk), {"email": "x@example.com", "name": "X", "language": "en"})

    operator.refresh_from_db()
    assert (answer.status_code, operator.email) == (403, "operator@example.com")
