"""A real browser before the real product: Debian's Chromium, a web process, the simulator, a fake payment gateway."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from django.utils.translation import gettext, override
from django_redis import get_redis_connection
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from billing.accounts.models import User
from billing.subscriptions.onboarding import Registration, customer_register
from iafactory.common.ids import uuid7
from tests.dashboard.conftest import console, free_plan, operator, populate
from tests.fakes.chargily import FakeChargily
from tests.fakes.server import serve
from tests.live.conftest import Live, free_port, live, live_database, live_servers, start_web

__all__ = ["console", "free_plan", "live", "live_database", "live_servers", "operator", "populate"]

PASSWORD = "correct horse battery"
LOCALES = {"en": "en-US", "fr": "fr-FR", "ar": "ar-DZ"}
AXE = (Path(__file__).parent / "axe.min.js").read_text()
# Five seconds, the default, are few for a page on a machine with other work.
expect.set_options(timeout=20_000)


def chromium() -> str:
    """Where Chromium is: `CHROMIUM`, or what the system calls it."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), "")
    if not found:
        pytest.skip("BROWSER TESTS SKIPPED: no Chromium here. Debian: apt install chromium; elsewhere name it in CHROMIUM.")
    return found


# Not for the session: while Playwright's loop runs in this thread no other test can run one.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox; what it opens here is ours.
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        # Playwright keeps a loop running in this thread, beside which Django refuses its ORM.
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
        yield opened
        # Beside that loop this thread has connections of its own.
        connections.close_all()
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
        opened.close()


@pytest.fixture(scope="package")
def gateway() -> Iterator[FakeChargily]:
    fake = FakeChargily()
    stop = serve(fake)
    yield fake
    stop()


@pytest.fixture(scope="package")
def shop(live_servers: Live, gateway: FakeChargily, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a web process with a payment gateway. One for all tests: its start takes longer than most of them."""
    port = free_port()
    web = start_web(
        port,
        live_servers.simulator_url,
        tmp_path_factory.mktemp("shop") / "web.log",
        PUBLIC_URL=f"http://127.0.0.1:{port}",
        PAYMENT_MODE="test",
        PAYMENT_GATEWAYS="chargily",
        CHARGILY_SECRET_KEY=gateway.secret_key,
        CHARGILY_API_URL=f"{gateway.url}/api/v2",
    )
    yield f"http://127.0.0.1:{port}"
    web.terminate()
    web.wait(60)


def too_wide(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def told(language: str, text: str) -> str:
    """What the product says for `text` in a language."""
    with override(language):
        return gettext(text)


class Site:
    """The product with a payment gateway, and browsers that look at it."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url
        self.contexts: list[BrowserContext] = []
        # Every error that any page wrote to its console, with the page.
        self.errors: list[str] = []

    def page(self, *, language: str = "en", phone: bool = False) -> Page:
        """A new browser's first page."""
        size: Any = {"width": 360, "height": 740} if phone else {"width": 1280, "height": 900}
        context = self.browser.new_context(viewport=size, locale=LOCALES[language], base_url=self.url)
        context.set_default_timeout(20_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._note(page, message.type, message.text))
        page.on("pageerror", lambda error: self.errors.append(f"{page.url}: {error}"))
        return page

    def _note(self, page: Page, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(f"{page.url}: {text}")

    def customer(self, *, language: str = "en") -> Registration:
        """A customer who has signed up."""
        return customer_register(email=f"{uuid7().hex[-12:]}@example.com", password=PASSWORD, name="Sara", language=language)

    def signed_in(self, customer: Registration, *, language: str = "en", phone: bool = False) -> Page:
        """The overview, in a browser where the customer signed in."""
        page = self.page(language=language, phone=phone)
        page.goto("/billing/sign-in")
        page.fill("[name=email]", customer.user.email)
        page.fill("[name=password]", PASSWORD)
        page.click("form button.button-main")
        page.wait_for_url("**/billing/")
        return page

    def operator(self, *, language: str = "en", phone: bool = False) -> Page:
        """The console's home, in a browser where an operator with every right signed in."""
        email = f"{uuid7().hex[-12:]}@operators.example"
        User.objects.create_superuser(email, PASSWORD, language=language)
        page = self.page(language=language, phone=phone)
        page.goto("/admin/login/")
        page.fill("[name=username]", email)
        page.fill("[name=password]", PASSWORD)
        page.click("[type=submit]")
        page.wait_for_url("**/admin/")
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture
def site(live: Live, browser: Browser, shop: str) -> Iterator[Site]:
    get_redis_connection("default").delete(*get_redis_connection("default").keys("iaf:brake:*") or ["none"])
    made = Site(browser, shop)
    yield made
    made.close()


@pytest.fixture
def filled(browser: Browser, console: Client, populate: Callable[[int, int], None]) -> Iterator[Site]:
    """The console with two rows of every model, answered within the test's own transaction: nothing of it stays."""
    populate(1, 2)
    made = Site(browser, "http://localhost")
    # Playwright's loop runs in this thread: another one answers, on the connection whose transaction has the rows.
    connection.inc_thread_sharing()
    answers = ThreadPoolExecutor(1, initializer=connections.__setitem__, initargs=("default", connections["default"]))
    # The same dozen of scripts and styles for each of a hundred pages.
    static: dict[str, dict[str, Any]] = {}

    def answer(route: Route) -> None:
        asked = route.request
        if asked.method != "GET" or not asked.url.startswith(made.url):
            pytest.fail(f"the page asks for {asked.method} {asked.url}")
        if asked.url in static:
            route.fulfill(**static[asked.url])
            return
        answered = answers.submit(console.get, asked.url.removeprefix(made.url)).result()
        body = b"".join(answered)
        given: dict[str, Any] = {"status": answered.status_code, "headers": dict(answered.items()), "body": body}
        if asked.url.startswith(f"{made.url}/static/"):
            static[asked.url] = given
        route.fulfill(**given)

    made.page().context.route("**/*", answer)
    yield made
    made.close()
    answers.shutdown()
    connection.dec_thread_sharing()


@pytest.fixture
def serious_faults() -> Callable[[Page], list[str]]:
    """What axe-core calls serious or critical on a page: rule and element."""

    def look(page: Page) -> list[str]:
        # Injected by the debugger's protocol, which the page's own policy does not concern.
        page.evaluate(AXE)
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{violation['id']}: {node['html'][:160]}"
            for violation in result["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    return look
