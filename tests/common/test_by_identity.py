"""What is made once of the same objects, and again of others."""

from iafactory.common import by_identity
from iafactory.common.by_identity import ByIdentity


class Price:
    """Equal to every other one."""

    def __init__(self, usd: int) -> None:
        self.usd = usd

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Price)

    __hash__ = None  # type: ignore[assignment]


def test_the_same_objects_are_worked_out_once() -> None:
    made: list[int] = []
    doubled = ByIdentity(lambda price, times: made.append(price.usd) or price.usd * times)
    cheap, dear = Price(1), Price(5)

    answers = [doubled(cheap, 2), doubled(cheap, 2), doubled(dear, 2), doubled(cheap, 3)]

    assert answers == [2, 2, 10, 3]
    assert made == [1, 5, 1]


def test_an_object_that_is_gone_gives_its_place_to_no_other() -> None:
    usd_of = ByIdentity(lambda price: price.usd)

    # Without being kept alive the next one would often lie where the last one lay.
    assert [usd_of(Price(usd)) for usd in range(100)] == list(range(100))


def test_only_so_many_are_kept(monkeypatch) -> None:
    monkeypatch.setattr(by_identity, "MOST_KEPT", 3)
    made: list[int] = []
    usd_of = ByIdentity(lambda price: made.append(price.usd) or price.usd)
    prices = [Price(usd) for usd in range(4)]

    for price in (*prices, prices[0], prices[3]):
        usd_of(price)

    assert made == [0, 1, 2, 3, 0]


def test_a_failure_is_not_kept() -> None:
    usd_of = ByIdentity(lambda price: 1 // price.usd)
    price = Price(0)

    for _ in range(2):
        try:
            usd_of(price)
        except ZeroDivisionError:
            price.usd = 1
    assert usd_of(price) == 1
