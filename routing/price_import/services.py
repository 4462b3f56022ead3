"""From a price file to a proposal, and from a reviewed proposal to price rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text
from routing.models import ModelPrice, ModelProfile

from .differences import differences, merged, warnings_of
from .models import PriceProposal, PriceProposalLine, price_text
from .reading import COLUMNS, FilePrice, PriceFile

FREE_TIER_SUFFIX = ":free"
# How many entries that nobody stands for are named.
MOST_UNKNOWN = 200


@dataclass(slots=True)
class PriceDifferences:
    """What a file would change; `lines` are not saved."""

    lines: list[PriceProposalLine] = field(default_factory=list)
    unchanged: int = 0
    unknown: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[PriceProposalLine]:
        return [line for line in self.lines if line.kind == kind]

    @property
    def proposes(self) -> bool:
        """Whether there is a price to apply."""
        return any(line.kind != PriceProposalLine.Kind.MISSING for line in self.lines)


def price_differences(file: PriceFile, *, now: datetime) -> PriceDifferences:
    """Compare a file with the list prices in force; a few queries, nothing is written.

    A free tier has the list price of its provider's paid profile. Profiles in use of the file's providers that it does not
    mention are `missing`.
    """
    profiles = list(ModelProfile.objects.select_related("provider", "model").order_by("slug"))
    by_slug = {profile.slug: profile for profile in profiles}
    by_upstream: dict[tuple[str, str], list[ModelProfile]] = {}
    for profile in profiles:
        by_upstream.setdefault((profile.provider.slug, profile.upstream_model), []).append(profile)
    present: dict[int, ModelPrice] = {
        price.profile_id: price for price in ModelPrice.objects.filter(effective_from__lte=now).order_by("effective_from")
    }
    found = PriceDifferences()
    seen: set[int] = set()
    for entry in file.entries:
        named = [by_slug[slug] for slug in _slugs(entry) if slug in by_slug]
        matched = named or by_upstream.get((entry.provider, entry.upstream), [])
        if not matched:
            found.unknown.append(entry.name)
        for profile in matched:
            if profile.pk not in seen:
                seen.add(profile.pk)
                _compare(found, profile, present.get(profile.pk), entry)
    for profile in profiles:
        if profile.pk not in seen and profile.enabled and profile.provider.slug in file.providers:
            found.lines.append(
                PriceProposalLine(profile=profile, kind=PriceProposalLine.Kind.MISSING, present=present.get(profile.pk))
            )
    return found


def price_proposal_create(*, file: PriceFile, actor: Actor) -> tuple[PriceProposal | None, PriceDifferences]:
    """Keep what a file would change for review; no proposal where it changes nothing."""
    found = price_differences(file, now=clock.now())
    if not found.proposes:
        return None, found
    with transaction.atomic():
        proposal = PriceProposal.objects.create(
            source=file.name[:200], unchanged=found.unchanged, unknown=sorted(found.unknown)[:MOST_UNKNOWN]
        )
        for line in found.lines:
            line.proposal = proposal
        PriceProposalLine.objects.bulk_create(found.lines)
        counts = {str(kind): len(found.of_kind(kind)) for kind in PriceProposalLine.Kind.values}
        _event("created", proposal, actor, after={"source": proposal.source, **counts})
    return proposal, found


def price_proposal_apply(
    *,
    proposal: PriceProposal,
    line_ids: Iterable[UUID],
    actor: Actor,
    reason: str,
    effective_from: datetime | None = None,
) -> list[ModelPrice]:
    """Make price rows of the lines named, in force from an instant ahead, or at once.

    All of them or none. A line applied before is left alone. Raises ApiError 400 `invalid_request` (nothing chosen, an instant
    that has passed, no reason), 409 `price_proposal_closed`, 409 `price_changed` when a profile got another price since.
    """
    if not reason.strip():
        raise ApiError(400, "invalid_request", "Say why.", param="reason")
    now = clock.now()
    if effective_from is not None and effective_from <= now:
        raise ApiError(400, "invalid_request", "Prices take effect at once or later, never before.", param="effective_from")
    at = effective_from or now
    with transaction.atomic():
        proposal = _lock(proposal)
        if proposal.state == PriceProposal.State.CLOSED:
            raise ApiError(409, "price_proposal_closed", "The proposal is closed.")
        lines = [line for line in proposal.lines.select_related("profile").filter(pk__in=list(line_ids)) if line.applicable]
        if not lines:
            raise ApiError(400, "invalid_request", "Choose at least one price.", param="lines")
        # Two proposals at once go one after the other.
        locked = ModelProfile.objects.select_for_update(no_key=True).filter(pk__in=[line.profile_id for line in lines])
        list(locked.order_by("pk"))
        rows = [_row(line, proposal, at) for line in lines]
        ModelPrice.objects.bulk_create(rows)
        for line, row in zip(lines, rows, strict=True):
            line.applied = row
            event_record(
                kind="model_price.created",
                object_type="model_price",
                object_id=row.pk,
                actor=actor,
                after={"profile": line.profile.slug, "effective_from": at.isoformat(), **line.prices},
                reason=reason,
            )
        PriceProposalLine.objects.bulk_update(lines, ["applied"])
        if not any(line.applicable for line in proposal.lines.all()):
            _finish(proposal, PriceProposal.State.APPLIED)
        profiles = sorted(line.profile.slug for line in lines)
        _event("applied", proposal, actor, after={"effective_from": at.isoformat(), "profiles": profiles}, reason=reason)
    return rows


def price_proposal_close(*, proposal: PriceProposal, actor: Actor, reason: str) -> PriceProposal:
    """Leave the rest of a proposal unapplied; again is the same. Raises ApiError 400 `invalid_request` without a reason."""
    if not reason.strip():
        raise ApiError(400, "invalid_request", "Say why.", param="reason")
    with transaction.atomic():
        proposal = _lock(proposal)
        if proposal.state == PriceProposal.State.OPEN:
            some = proposal.lines.filter(applied__isnull=False).exists()
            _finish(proposal, PriceProposal.State.APPLIED if some else PriceProposal.State.CLOSED)
            _event("closed", proposal, actor, after={"state": proposal.state}, reason=reason)
    return proposal


def _slugs(entry: FilePrice) -> tuple[str, ...]:
    return () if entry.slug is None else (entry.slug, entry.slug + FREE_TIER_SUFFIX)


def _compare(found: PriceDifferences, profile: ModelProfile, present: ModelPrice | None, entry: FilePrice) -> None:
    before = None if present is None else told_price(present)
    wanted = merged(before, entry)
    changes = differences(before, wanted)
    if not changes:
        found.unchanged += 1
        return
    found.lines.append(
        PriceProposalLine(
            profile=profile,
            kind=PriceProposalLine.Kind.NEW if present is None else PriceProposalLine.Kind.CHANGED,
            present=present,
            prices=wanted,
            differences=[change.told() for change in changes],
            warnings=warnings_of(changes, wanted),
            source=entry.source[:200],
        )
    )


def told_price(row: ModelPrice) -> dict[str, Any]:
    """A price row in the form that files and proposals have."""
    columns = {name: getattr(row, name) for name in COLUMNS}
    return {
        "columns": {name: price_text(value) for name, value in columns.items() if value is not None},
        "units": {name: price_text(Decimal(str(value))) for name, value in row.units.items() if value is not None},
        "tiers": [_told_tier(tier) for tier in row.tiers],
    }


def _told_tier(tier: Mapping[str, Any]) -> dict[str, Any]:
    prices = {name: price_text(Decimal(str(tier[name]))) for name in COLUMNS if tier.get(name) is not None}
    return {"threshold": int(tier["threshold"]), **prices}


def _row(line: PriceProposalLine, proposal: PriceProposal, at: datetime) -> ModelPrice:
    rows = ModelPrice.objects.filter(profile=line.profile_id)
    if rows.filter(Q(created_at__gt=proposal.created_at) | Q(effective_from=at)).exists():
        told = Text("%(profile)s got another price since the file was read; import it again.", profile=line.profile.slug)
        raise ApiError(409, "price_changed", told)
    return ModelPrice(
        profile=line.profile,
        effective_from=at,
        units=line.prices["units"],
        tiers=line.prices["tiers"],
        source=line.source or "imported",
        **{name: Decimal(value) for name, value in line.prices["columns"].items()},
    )


def _lock(proposal: PriceProposal) -> PriceProposal:
    return PriceProposal.objects.select_for_update().get(pk=proposal.pk)


def _finish(proposal: PriceProposal, state: str) -> None:
    proposal.state, proposal.closed_at = state, clock.now()
    proposal.save(update_fields=["state", "closed_at"])


def _event(what: str, proposal: PriceProposal, actor: Actor, *, after: dict[str, Any], reason: str = "") -> None:
    event_record(
        kind=f"price_proposal.{what}",
        object_type="price_proposal",
        object_id=proposal.pk,
        actor=actor,
        after=after,
        reason=reason,
    )
