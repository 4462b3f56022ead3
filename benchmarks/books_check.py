"""That a fast figure is a right one: the books verify, and what was answered is what was billed."""

import psycopg

from benchmarks.running import manage
from chaos.product import Product

# A settled call is in the log before its answer ends: nothing has to be waited for.
BILLED = "SELECT count(*) FROM billing_usagerecord WHERE \"end\" = 'complete' AND credits_charged > 0 AND started_at >= %s"


class BooksWrong(Exception):
    """What was answered is not what was billed; the text is one line."""


class BilledCalls:
    """Counts the calls billed since it was made. The books verify then, or it is not made (`CommandFailed`)."""

    def __init__(self, product: Product) -> None:
        manage(product, "verify_books")
        self._url = product.environment["DATABASE_URL"]
        with psycopg.connect(self._url) as database:
            row = database.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        self._since = row[0]

    def count(self) -> int:
        with psycopg.connect(self._url) as database:
            row = database.execute(BILLED, [self._since]).fetchone()
        assert row is not None
        return int(row[0])

    def check(self, product: Product, answered: int, failed: int = 0) -> str:
        """Raises BooksWrong unless every answered call was billed, and none that nobody made; returns what to say of it."""
        billed = self.count()
        if not answered <= billed <= answered + failed:
            raise BooksWrong(f"{answered:,} calls were answered, {failed:,} failed, {billed:,} are billed")
        manage(product, "verify_books")
        return f"{answered:,} calls were answered, {billed:,} are billed, and the books verify"
