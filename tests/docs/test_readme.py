"""What the documents name exists: addresses with their methods, make targets, files, and links."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pytest
from django.urls import URLPattern, URLResolver, get_resolver, resolve

from tests.docs.reading import APPS, DOCUMENTS, PROJECT, section, table_rows, text_of

CONVERTER = re.compile(r"<(?:\w+:)?(\w+)>")


def addresses_served(resolver: URLResolver, prefix: str = "/") -> Iterator[str]:
    """Every address of ours; the console and the panel are one each, and a spelling with a slash at the end is the same."""
    for pattern in resolver.url_patterns:
        address = prefix + CONVERTER.sub(r"{\1}", str(pattern.pattern))
        if isinstance(pattern, URLResolver) and not address.startswith(("/admin", "/billing")):
            yield from addresses_served(pattern, address)
        elif isinstance(pattern, URLPattern) and len(address) > 1:
            yield address.removesuffix("/")
        else:
            yield address


def addresses_documented() -> dict[str, set[str]]:
    cells = " ".join(row[0] for row in table_rows(text_of("docs/addresses.md")))
    return {address: set(methods.split(", ")) for methods, address in re.findall(r"`([A-Z, ]+) (/[^`]*)`", cells)}


def methods_of(address: str) -> set[str]:
    view: Any = resolve(re.sub(r"\{\w+\}", "x", address)).func
    view_class = getattr(view, "cls", None) or getattr(view, "view_class", None)
    if view_class is None:
        return {"GET"}
    return {name for name in ("GET", "POST", "PUT", "PATCH", "DELETE") if hasattr(view_class, name.lower())}


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", text_of("Makefile"), re.M))


def checks_of_make_check() -> set[str]:
    rule = re.search(r"^check:.*\n(?:\t.*\n)*", text_of("Makefile"), re.M)
    assert rule is not None
    return makefile_targets() & set(re.findall(r"[a-z][a-z-]*", rule[0].removeprefix("check:")))


def headings(document: str) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text_of(document), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_tables_list_every_address_and_no_other() -> None:
    documented = addresses_documented()

    assert documented.keys() == set(addresses_served(get_resolver()))


@pytest.mark.parametrize(
    "address", [address for address in addresses_documented() if address.startswith(("/api/", "/v1/", "/health"))]
)
def test_an_address_takes_the_methods_named(address: str) -> None:
    assert addresses_documented()[address] == methods_of(address)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_named_exists(document: str) -> None:
    named = set(re.findall(r"(?:`|^    |\$ |&& )make ([a-z][a-z-]*)", text_of(document), re.M))

    assert named <= makefile_targets()


def test_the_readme_names_the_checks() -> None:
    named = set(re.findall(r"make ([a-z][a-z-]*)", section("README.md", "make")))

    assert named <= makefile_targets()
    assert {"run", "test", "check", *checks_of_make_check()} <= named


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    targets = [unquote(target) for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)) if ":" not in target]
    broken = []
    for target in targets:
        file, _, anchor = target.partition("#")
        path = (PROJECT / document).parent / file if file else PROJECT / document
        if not path.resolve().exists() or (anchor and anchor not in headings(path.resolve().relative_to(PROJECT).as_posix())):
            broken.append(target)

    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_exist(document: str) -> None:
    named = re.findall(r"`((?:iafactory|ratelimit|billing|routing|dashboard|tests|docs)/[\w./-]*)`", text_of(document))

    assert [name for name in named if not (PROJECT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_named_exist(document: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(document))

    assert [name for file, name in named if f"def {name}(" not in text_of(file)] == []


def test_the_folders_of_the_table_are_those_of_the_project() -> None:
    rows = table_rows(section("README.md", "Where things are"))
    named = {PurePosixPath(row[0].strip("`")).name for row in rows}

    assert {*APPS, "tests", "docs"} <= named
    assert [name for name in named if not (PROJECT / name).is_dir()] == []


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) < 180
