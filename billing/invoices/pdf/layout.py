"""An invoice document as the strings its page shows: wording, formats and reading directions are decided here.

The result is plain data (JSON) for `invoice.typ`. A text is a list of spans `[kind, text]`: `t` runs with the document, `n` is
a number, date or code that reads left to right wherever it stands.
"""

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, TypeAlias

from ..amount_words import amount_in_words
from ..document import DocumentKind, DocumentLine, DocumentMark, DocumentTax, InvoiceDocument, Party
from .formatting import (
    amount_format,
    country_name,
    date_format,
    foreign_text,
    money_parts,
    percent_format,
    plain_text,
    quantity_format,
    unit_price_format,
)
from .wording import WORDINGS, Wording

Spans: TypeAlias = list[list[str]]


def layout(document: InvoiceDocument) -> dict[str, Any]:
    """Everything the page shows of `document`, in its language."""
    return _Layout(document, WORDINGS[document.language]).page()


@dataclass(frozen=True, slots=True)
class _Layout:
    document: InvoiceDocument
    wording: Wording

    def page(self) -> dict[str, Any]:
        document, wording = self.document, self.wording
        return {
            "language": document.language,
            "rtl": wording.right_to_left,
            "colon": wording.colon,
            "title": self._title(),
            "number_label": wording.number,
            "number": plain_text(document.number),
            "pdf_title": f"{self._title()} {plain_text(document.number)}",
            "pdf_author": plain_text(document.seller.name),
            "mark": wording.marks.get(document.mark, ""),
            "mark_kind": document.mark.value,
            "corrects": self._corrects(),
            "seller": self._party(document.seller, wording.seller),
            "customer": self._party(document.customer, wording.customer),
            "facts": self._facts(),
            "table": self._table(),
            "totals": self._totals(),
            "words_label": (wording.words_credit_note if document.kind == DocumentKind.CREDIT_NOTE else wording.words_invoice),
            "words": amount_in_words(document.total, document.currency, document.language),
            "bank_label": wording.bank_details,
            "bank": [self._text(line) for line in document.bank_details.splitlines() if line.strip()],
            "mentions": [self._text(mention) for mention in document.mentions if mention.strip()],
            "electronic": wording.electronic,
            "page_label": wording.page,
            "footer": self._footer(),
        }

    # --- Texts ---

    def _text(self, text: str) -> Spans:
        return [["t", foreign_text(text, right_to_left=self.wording.right_to_left)]]

    def _fill(self, template: str, **values: str) -> Spans:
        """A template whose named places are numbers, dates or codes."""
        parts = re.split(r"\{(\w+)\}", template)
        spans = [["n", values[part]] if position % 2 else ["t", part] for position, part in enumerate(parts)]
        return [span for span in spans if span[1]]

    def _date(self, day: date) -> Spans:
        return [["n", date_format(day, self.document.language)]]

    def _amount(self, amount: Decimal) -> Spans:
        return [["n", amount_format(amount, self.document.currency, self.document.language)]]

    def _money(self, amount: Decimal) -> Spans:
        before, number, after = money_parts(amount, self.document.currency, self.document.language)
        return [["n", before + number], ["t", "\u00a0" + after]] if after else [["n", before + number]]

    # --- Head ---

    def _title(self) -> str:
        if self.document.kind == DocumentKind.CREDIT_NOTE:
            return self.wording.credit_note
        return self.wording.tax_invoice if self.document.is_tax_invoice else self.wording.invoice

    def _corrects(self) -> Spans:
        document = self.document
        if not document.corrected_number or document.corrected_date is None:
            return []
        return self._fill(
            self.wording.corrects,
            number=plain_text(document.corrected_number),
            date=date_format(document.corrected_date, document.language),
        )

    def _party(self, party: Party, label: str) -> dict[str, Any]:
        wording = self.wording
        place = " ".join(part for part in (party.postal_code, party.city) if part.strip())
        lines = [party.legal_form, *party.address.splitlines(), place, party.region]
        lines.append(country_name(party.country, self.document.language) if party.country else "")
        pairs: list[tuple[str, str, bool]] = [
            (wording.activity, party.activity, False),
            (wording.capital, party.capital, False),
            (wording.phone, party.phone, True),
            ("", party.email, True),
            ("", party.website, True),
        ]
        pairs += [(self._identifier_label(code), value, True) for code, value in party.identifiers]
        return {
            "label": label,
            "name": self._text(party.name),
            "lines": [self._text(line) for line in lines if line.strip()],
            "pairs": [
                {"label": pair_label, "value": [["n", plain_text(value)]] if is_code else self._text(value)}
                for pair_label, value, is_code in pairs
                if value.strip()
            ],
        }

    def _identifier_label(self, code: str) -> str:
        return self.wording.identifiers.get(code, code.upper().replace("_", " "))

    def _facts(self) -> list[dict[str, Any]]:
        """What stands beside the customer: dates, payment, and what Indian law wants to know about the place."""
        document, wording = self.document, self.wording
        facts: list[tuple[str, Spans]] = [(wording.issue_date, self._date(document.issue_date))]
        if document.due_date is not None:
            facts.append((wording.due_date, self._date(document.due_date)))
        if document.payment_means:
            means = wording.means.get(document.payment_means)
            facts.append((wording.payment_means, [["t", means]] if means else self._text(document.payment_means)))
        if document.payment_date is not None:
            facts.append((wording.payment_date, self._date(document.payment_date)))
        if document.place_of_supply:
            facts.append((wording.place_of_supply, self._text(document.place_of_supply)))
        if document.reverse_charge is not None:
            facts.append((wording.reverse_charge, [["t", wording.yes if document.reverse_charge else wording.no]]))
        return [{"label": label, "value": value} for label, value in facts]

    # --- Lines ---

    def _table(self) -> dict[str, Any]:
        document, wording = self.document, self.wording
        with_sac = any(line.sac for line in document.lines)
        head = [wording.description]
        head += ["SAC"] * with_sac
        head += [wording.quantity, wording.unit_price_net if document.taxes else wording.unit_price]
        head += [wording.tax] * bool(document.taxes)
        head.append(wording.amount_net if document.taxes else wording.amount)
        return {
            "head": head,
            "rows": [self._row(line, with_sac=with_sac) for line in document.lines],
            "empty": wording.no_lines,
            "note": self._fill(wording.amounts_in, currency=document.currency),
        }

    def _row(self, line: DocumentLine, *, with_sac: bool) -> dict[str, Any]:
        document, language = self.document, self.document.language
        cells: list[Spans] = []
        if with_sac:
            cells.append([["n", plain_text(line.sac)]])
        cells.append([["n", quantity_format(line.quantity, language)]])
        cells.append([["n", unit_price_format(line.unit_price, document.currency, language)]])
        if document.taxes:
            cells.append([["n", "" if line.tax_rate is None else percent_format(line.tax_rate, language)]])
        cells.append(self._amount(line.amount))
        period: Spans = []
        if line.first_day is not None and line.last_day is not None:
            period = self._fill(
                self.wording.period, first=date_format(line.first_day, language), last=date_format(line.last_day, language)
            )
        return {"description": self._text(line.description), "period": period, "cells": cells}

    # --- Totals ---

    def _totals(self) -> list[dict[str, Any]]:
        """Rows below the lines; `strong` ones are what counts."""
        document, wording = self.document, self.wording
        rows: list[tuple[Spans, Spans, bool]] = []
        if document.taxes:
            rows.append(([["t", wording.net]], self._amount(document.net), False))
            rows += [(self._tax_label(tax), self._amount(tax.amount), False) for tax in document.taxes]
        extras = [(wording.stamp_duty, document.stamp_duty), (wording.rounding, document.rounding)]
        extras = [(label, amount) for label, amount in extras if amount]
        total_label = wording.total_with_tax if document.taxes else wording.total
        if extras:
            before = document.total - document.stamp_duty - document.rounding
            rows.append(([["t", total_label]], self._amount(before), False))
            rows += [([["t", label]], self._amount(amount), False) for label, amount in extras]
            total_label = wording.payable
        if document.kind == DocumentKind.CREDIT_NOTE:
            total_label = wording.credited
        rows.append(([["t", total_label]], self._money(document.total), True))
        settled = [(wording.balance_applied, document.balance_applied), (wording.amount_paid, document.amount_paid)]
        settled = [(label, amount) for label, amount in settled if amount]
        rows += [([["t", label]], self._amount(-amount), False) for label, amount in settled]
        if settled and document.kind == DocumentKind.INVOICE and document.mark != DocumentMark.VOID:
            rows.append(([["t", wording.amount_due]], self._money(document.amount_due), True))
        return [{"label": label, "amount": amount, "strong": strong} for label, amount, strong in rows]

    def _tax_label(self, tax: DocumentTax) -> Spans:
        """Name, rate and base: TVA 19 % sur 10 000,00."""
        document, wording = self.document, self.wording
        label = wording.taxes.get(tax.code) or foreign_text(tax.label, right_to_left=wording.right_to_left)
        rate = percent_format(tax.rate, document.language)
        base = amount_format(tax.base, document.currency, document.language)
        return [["t", f"{label} "], *self._fill(wording.tax_on, rate=rate, base=base)]

    def _footer(self) -> list[Spans]:
        """The seller in one line below every page, in parts that stay together."""
        seller = self.document.seller
        parts = [self._text(" ".join(part for part in (seller.name, seller.legal_form) if part))]
        for code, value in seller.identifiers:
            parts.append([["t", f"{self._identifier_label(code)} "], ["n", plain_text(value)]])
        return parts
