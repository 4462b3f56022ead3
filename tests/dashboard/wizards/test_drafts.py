"""The end of a draft comes once, also for two submits that both found it unfinished."""

from typing import Any

import pytest

from billing.accounts.models import User
from dashboard.console.wizards.drafts import draft_begin, draft_finish, draft_keep, draft_of
from dashboard.console.wizards.models import ConsoleDraft
from iafactory.common.errors import ApiError

pytestmark = pytest.mark.django_db


def test_two_submits_of_one_unfinished_draft_write_once(operator: User) -> None:
    draft = draft_begin(kind="x", operator=operator, data={"a": {"b": ["c"]}}, secret="sk-secret")
    written: list[Any] = []

    def write(locked: ConsoleDraft) -> str:
        written.append((locked.data, locked.secret))
        return "/admin/"

    answers = [draft_finish(draft, write), draft_finish(draft, write)]

    row = ConsoleDraft.objects.get()
    assert answers == [("/admin/", True), ("/admin/", False)]
    assert written == [({"a": {"b": ["c"]}}, "sk-secret")]
    assert (row.result, row.data, row.secret) == ("/admin/", {}, "")


def test_a_refused_end_leaves_the_draft_as_it_was(operator: User) -> None:
    draft = draft_begin(kind="x", operator=operator, data={"a": {}}, secret="sk-secret")

    def write(locked: ConsoleDraft) -> str:
        raise ApiError(409, "already_exists", "It is there.")

    with pytest.raises(ApiError):
        draft_finish(draft, write)

    row = ConsoleDraft.objects.get()
    assert (row.result, row.data, row.secret) == ("", {"a": {}}, "sk-secret")


def test_a_page_that_comes_after_the_end_changes_nothing(operator: User) -> None:
    draft = draft_begin(kind="x", operator=operator, data={"a": {}}, secret="sk-secret")
    late = ConsoleDraft.objects.get()
    draft_finish(draft, lambda locked: "/admin/")

    draft_keep(late)

    row = ConsoleDraft.objects.get()
    assert (row.result, row.data, row.secret) == ("/admin/", {}, "")


def test_one_wizard_does_not_find_anothers_draft(operator: User) -> None:
    draft = draft_begin(kind="x", operator=operator, data={})

    assert draft_of(kind="x", operator=operator, draft_id=draft.pk) == draft
    assert draft_of(kind="y", operator=operator, draft_id=draft.pk) is None
