"""Connecting a provider: tried by real calls, its models and prices chosen, then written at once and only once."""

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client, override_settings
from django.urls import reverse
from freezegun import freeze_time

from billing.accounts.models import User
from billing.events.models import Event
from dashboard.console.wizards.models import ConsoleDraft
from iafactory.common.crypto import decrypt
from routing.models import AiModel, ModelPrice, ModelProfile, Provider, ProviderCredential
from tests.fakes.company import BAD, GOOD, Company

from ..conftest import PASSWORD

pytestmark = pytest.mark.django_db

START = reverse("admin:routing_provider_connect")


def connection(company: Company, **changes: Any) -> dict[str, Any]:
    return {
        "company": "-",
        "name": "Acme",
        "slug": "acme",
        "protocol": "openai",
        "base_url": company.url,
        "secret": GOOD,
        "label": "main",
        "probe_model": "",
    } | changes


def prices(*models: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for model in models:
        found |= {f"name|{model}": model, f"mode|{model}": "chat"}
        found |= {f"input_per_mtok|{model}": "1", f"output_per_mtok|{model}": "4", f"cached_input_per_mtok|{model}": ""}
    return found | changes


def page_of(response: Any) -> str:
    """Which page a wizard showed, or leads to."""
    address = response["location"] if response.status_code == 302 else response.request["QUERY_STRING"]
    return address.partition("page=")[2] or "first"


@pytest.fixture
def summary(console: Client, company: Company) -> str:
    """The address of the last page, everything before it filled in."""
    models = console.post(START, connection(company))["location"]
    priced = console.post(models, {"models": ["acme-large", "acme-embed"]})["location"]
    values = prices("acme-large", "acme-embed", **{"mode|acme-embed": "embedding", "output_per_mtok|acme-embed": ""})
    return str(console.post(priced, values)["location"])


def written() -> tuple[int, ...]:
    return tuple(model.objects.count() for model in (Provider, ProviderCredential, AiModel, ModelProfile, ModelPrice, Event))


def test_everything_is_written_at_the_end_with_an_event_each(console: Client, company: Company, summary: str) -> None:
    before = written()
    shown = console.get(summary).content.decode()

    answer = console.post(summary, {"reason": "a second supplier"})

    provider = Provider.objects.get()
    large = ModelPrice.objects.get(profile__slug="acme/acme-large")
    embed = ModelProfile.objects.get(slug="acme/acme-embed")
    assert before == (0, 0, 0, 0, 0, 0)
    assert answer["location"] == reverse("admin:routing_provider_change", args=[provider.pk])
    assert (provider.slug, provider.name, provider.protocol, provider.base_url) == ("acme", "Acme", "openai", company.url)
    assert ProviderCredential.objects.get().secret == GOOD
    assert (large.input_per_mtok, large.output_per_mtok, large.cached_input_per_mtok, large.source) == (
        Decimal(1),
        Decimal(4),
        None,
        "console",
    )
    assert (embed.model.mode, embed.upstream_model, embed.prices.get().input_per_mtok) == (
        "embedding",
        "acme-embed",
        Decimal(1),
    )
    kinds = list(Event.objects.order_by("kind", "at").values_list("kind", flat=True))
    assert kinds == [
        "ai_model.created",
        "ai_model.created",
        "model_price.created",
        "model_price.created",
        "model_profile.created",
        "model_profile.created",
        "provider.created",
        "provider_credential.created",
    ]
    assert set(Event.objects.values_list("reason", flat=True)) == {"a second supplier"}
    assert "acme-large answered in" in shown
    assert "margin" in shown.lower()


def test_the_key_is_tried_by_two_real_calls_and_never_comes_back(console: Client, company: Company, summary: str) -> None:
    pages = [
        console.get(START + summary.partition("connect/")[2].replace("summary", name)) for name in ("connection", "models")
    ]
    shown = "".join(page.content.decode() for page in [*pages, console.get(summary)])
    row = ConsoleDraft.objects.values_list("secret", "data").get()

    console.post(summary, {"reason": "why"})

    log = str(list(LogEntry.objects.values())) + str(list(Event.objects.values()))
    assert [call[:4] for call in company.calls] == [
        ("GET", "/v1/models", GOOD, ""),
        ("POST", "/v1/chat/completions", GOOD, "acme-large"),
    ]
    assert GOOD not in shown + log + str(row[1])
    assert row[0] == GOOD
    assert ConsoleDraft.objects.get().secret == ""


def test_the_kept_key_is_encrypted_in_the_database(console: Client, company: Company, summary: str) -> None:
    from django.db import connection as database

    with database.cursor() as cursor:
        cursor.execute("SELECT secret FROM dashboard_consoledraft")
        (stored,) = cursor.fetchone()

    assert GOOD not in stored
    assert decrypt(stored) == GOOD


def test_a_second_submit_creates_nothing_twice(console: Client, summary: str) -> None:
    first = console.post(summary, {"reason": "why"})
    before = written()

    second = console.post(summary, {"reason": "why"}, follow=True)

    assert written() == before
    assert second.redirect_chain == [(first["location"], 302)]
    assert "This was done already." in second.content.decode()


def test_going_back_keeps_what_was_entered(console: Client, summary: str) -> None:
    back = console.post(summary, {"_back": "Back"})["location"]
    prices_page = console.get(back).content.decode()
    models_page = console.get(back.replace("page=prices", "page=models")).content.decode()
    connection_page = console.get(back.replace("page=prices", "page=connection")).content.decode()

    assert page_of(console.get(back)) == "prices"
    assert 'name="output_per_mtok|acme-large" value="4"' in prices_page
    assert models_page.count(" checked") == 2
    assert 'value="Acme"' in connection_page
    assert "A key was given and is kept" in connection_page
    assert GOOD not in connection_page


def test_other_models_chosen_later_keep_the_prices_of_those_that_stay(console: Client, summary: str) -> None:
    models = summary.replace("page=summary", "page=models")

    priced = console.post(models, {"models": ["acme-large", "gpt-oss-120b"]})["location"]
    page = console.get(priced).content.decode()

    assert 'name="output_per_mtok|acme-large" value="4"' in page
    assert "acme-embed" not in page
    assert 'name="name|gpt-oss-120b" value="gpt-oss-120b"' in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"secret": BAD}, "The provider refuses this key."),
        ({"secret": ""}, "The key is missing."),
        ({"base_url": "http://127.0.0.1:1/v1"}, "The provider cannot be reached."),
        ({"base_url": "ftp://acme.example/v1"}, "This is not an address."),
        ({"base_url": ""}, "Needed for a provider that is not in the list."),
        ({"secret": "two words"}, "A key is printable ASCII without spaces."),
    ],
    ids=["wrong key", "no key", "unreachable", "odd scheme", "no address", "no key at all"],
)
def test_what_does_not_work_is_said_and_nothing_is_kept(
    console: Client, company: Company, changes: dict[str, str], said: str
) -> None:
    page = console.post(START, connection(company, **changes))

    text = page.content.decode()
    assert page.status_code == 200
    assert said in text
    assert BAD not in text
    assert ConsoleDraft.objects.count() == 0
    assert written() == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"<html>hello</html>", "Its list of models is not JSON."),
        (b'{"data": "no"}', "What it answers is no list of models."),
        (b'{"data": [{"id": 5}, {"id": "<script>"}]}', "It lists no models."),
    ],
)
def test_odd_lists_are_refused(console: Client, company: Company, raw: bytes, said: str) -> None:
    company.raw_models = raw

    page = console.post(START, connection(company)).content.decode()

    assert "It answered, but not as expected." in page
    assert said in page


def test_a_list_without_an_answer_is_not_enough(console: Client, company: Company) -> None:
    company.chat_status = 404

    page = console.post(START, connection(company)).content.decode()

    assert "It answered, but not as expected. (acme-large: HTTP 404" in page


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1", "https://127.0.0.1", "https://10.0.0.5", "https://169.254.169.254", "https://localhost"]
)
@override_settings(PROVIDERS_ALLOW_PRIVATE_ADDRESSES=False)
def test_an_address_that_is_not_public_is_never_called(console: Client, company: Company, host: str) -> None:
    page = console.post(START, connection(company, base_url=f"{host}:{company.url.rpartition(':')[2]}"))

    assert page.status_code == 200
    assert page.context["form"].errors["base_url"]
    assert company.calls == []


@override_settings(PROVIDERS_ALLOW_PRIVATE_ADDRESSES=False)
def test_a_name_that_leads_inside_is_never_called(console: Client, company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    port = int(company.url.rpartition(":")[2].partition("/")[0])
    inside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: inside)

    page = console.post(START, connection(company, base_url=f"https://api.acme.example:{port}/v1"))

    assert "leads to a host that is not one of the public internet" in page.content.decode()
    assert company.calls == []


def test_the_shipped_catalogue_proposes_names_and_prices(console: Client, company: Company) -> None:
    Provider.objects.create(slug="openai", name="OpenAI", protocol="openai", base_url=company.url)
    company.models = {"data": [{"id": "gpt-5.4-mini"}, {"id": "gpt-9-unheard-of"}]}

    models = console.post(START, connection(company) | {"company": "openai"})["location"]
    priced = console.post(models, {"models": ["gpt-5.4-mini"]})["location"]
    page = console.get(priced)
    form = page.context["form"]
    values = {name: form[name].value() or "" for name in form.fields}
    last = console.post(priced, values)["location"]
    console.post(last, {"reason": "why"})

    price = ModelPrice.objects.get()
    assert company.calls[1][:4] == ("POST", "/v1/chat/completions", GOOD, "gpt-5.4-mini")
    assert (price.input_per_mtok, price.cached_input_per_mtok, price.output_per_mtok) == (
        Decimal("0.75"),
        Decimal("0.075"),
        Decimal("4.5"),
    )
    assert price.units == {"per_1k_web_searches": "10"}
    assert price.source != "console"
    assert AiModel.objects.get().reasoning is True
    assert Provider.objects.count() == 1
    # 1,000 in at 0.75 and 500 out at 4.5 a million: 0.003 USD, times 1.8 at 0.01 a credit.
    preview = page.context["rows"][0]["preview"][0]
    assert (preview.cost_usd, preview.credits, preview.percent) == (Decimal("0.003"), Decimal("0.54"), 44)


def test_a_model_without_a_price_is_named_and_gets_none(console: Client, company: Company) -> None:
    models = console.post(START, connection(company))["location"]
    priced = console.post(models, {"models": ["acme-large"]})["location"]
    last = console.post(priced, prices("acme-large", **{"input_per_mtok|acme-large": "", "output_per_mtok|acme-large": ""}))
    page = console.get(last["location"]).content.decode()
    console.post(last["location"], {"reason": "why"})

    assert "Calls to these are refused until they have a price: acme-large" in page
    assert (ModelProfile.objects.count(), ModelPrice.objects.count()) == (1, 0)


def test_the_margin_is_shown_without_going_on(console: Client, company: Company) -> None:
    models = console.post(START, connection(company))["location"]
    priced = console.post(models, {"models": ["acme-large"]})["location"]

    page = console.post(priced, prices("acme-large") | {"_look": "1"})

    preview = page.context["rows"][0]["preview"][0]
    assert (preview.cost_usd, preview.credits, preview.percent) == (Decimal("0.003"), Decimal("0.54"), 44)
    assert "prices" not in ConsoleDraft.objects.get().data


@pytest.mark.parametrize("value", ["-1", "cheap", "1e400", "0.0000000001"])
def test_a_price_that_is_none_is_refused(console: Client, company: Company, value: str) -> None:
    models = console.post(START, connection(company))["location"]
    priced = console.post(models, {"models": ["acme-large"]})["location"]

    page = console.post(priced, prices("acme-large", **{"input_per_mtok|acme-large": value}))

    assert page.status_code == 200
    assert list(page.context["form"].errors) == ["input_per_mtok|acme-large"]


def test_what_was_taken_meanwhile_is_refused_and_nothing_is_written(console: Client, summary: str) -> None:
    Provider.objects.create(slug="acme", name="Other", protocol="openai", base_url="https://other.example/v1")
    before = written()

    answer = console.post(summary, {"reason": "why"}, follow=True)

    assert written() == before
    assert "There is a provider of this code: choose it above." in answer.content.decode()


def test_pages_are_reached_in_order_only(console: Client, company: Company) -> None:
    models = console.post(START, connection(company))["location"]

    jumped = console.get(models.replace("page=models", "page=summary"))

    assert jumped.context["page"].name == "models"


def test_somebody_elses_draft_is_not_found(console: Client, summary: str) -> None:
    other = Client()
    other.force_login(User.objects.create_superuser("other@example.com", PASSWORD))

    answer = other.get(summary)

    assert (answer.status_code, answer["location"]) == (302, START)


def test_what_is_left_is_forgotten_after_a_day(console: Client, company: Company) -> None:
    with freeze_time("2026-11-20 12:00", real_asyncio=True):
        left = console.post(START, connection(company))["location"]
    with freeze_time("2026-11-21 12:01", real_asyncio=True):
        console.force_login(User.objects.get())
        gone = console.get(left)
        console.post(START, connection(company))

    assert gone["location"] == START
    assert ConsoleDraft.objects.count() == 1


def test_pages_carry_no_inline_code(console: Client, summary: str) -> None:
    names = ("connection", "models", "prices", "summary")
    shown = "".join(console.get(summary.replace("page=summary", f"page={name}")).content.decode() for name in names)

    assert "<script>" not in shown
    assert "style=" not in shown
    assert "onclick" not in shown
