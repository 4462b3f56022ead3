"""A company on loopback that lists its models and knows which keys are good."""

from collections.abc import Iterator

import pytest

from tests.fakes.company import Company, company_open


@pytest.fixture
def company() -> Iterator[Company]:
    with company_open() as company:
        yield company
