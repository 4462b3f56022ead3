"""What the console's heaviest work does to chats: an export of a million rows and the operator's home, over and over.

Pages and export go to the console's process, chats to the web process, as in production.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

from benchmarks.books_check import BilledCalls
from benchmarks.company import company_folder
from benchmarks.contenders import quiet_product, the_product
from benchmarks.figures import Run
from benchmarks.measures import median, median_ratio
from benchmarks.running import module
from benchmarks.windows import Scene
from chaos.product import PROJECT, Product

# The load of chats that customers wait for, at a rate that does not depend on how fast we answer.
SCENE = Scene("console", 16, latency_ms=60)
# Long enough for a p99 of thousands of chats, and for a good part of an export.
WINDOW_SECONDS = 12.0


class ConsoleFailed(Exception):
    """A page of the console did not come; the text is one line."""


def measure_beside_console(run: Run, product: Product) -> str:
    """Chats alone and beside the console, in turns, on a product with the company's data; returns what the books say."""
    product.start()
    keys = tuple(module(product, "benchmarks.customers", "customers", "16"))
    session = str(module(product, "benchmarks.customers", "operator"))
    billed = BilledCalls(product)
    beside = Run(product, keys, [the_product(product, keys)], run.rounds, run.seconds, run.tell)
    alone, busy, read = [], [], Counter[str]()
    beside.measure(beside.ours, SCENE, 2.0)
    for _ in range(run.rounds):
        alone.append(beside.measure(beside.ours, SCENE, WINDOW_SECONDS).load.p99)
        with _console_busy(product.second_url, session, read):
            busy.append(beside.measure(beside.ours, SCENE, WINDOW_SECONDS).load.p99)
    run.readings["console_p99"] = median_ratio(busy, alone)
    run.facts["console"] = {"p99_alone_ms": median(alone), "p99_beside_ms": median(busy), **read}
    return billed.check(product, beside.answered)


def company_product() -> Product:
    """With a web process for chats and one as console, on the company's data. Keep its folder."""
    return quiet_product(two_webs=True, var=company_folder())


@contextlib.contextmanager
def _console_busy(url: str, session: str, read: Counter[str]) -> Iterator[None]:
    """Opens the console's pages while the block runs; adds what was read to `read`. Raises ConsoleFailed."""
    command = [sys.executable, "-m", "benchmarks.console_reader", url, session]
    reader = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    try:
        # The export is under way when the chats begin.
        time.sleep(1)
        yield
    finally:
        # Ends its input, which ends it.
        output, errors = reader.communicate()
    if reader.returncode:
        raise ConsoleFailed(errors.strip().splitlines()[-1] if errors.strip() else "the console's reader failed")
    read.update(json.loads(output))
