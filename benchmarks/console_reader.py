"""An operator who exports every call, and opens the console's home, over and over: until the input of this program ends.

    python -m benchmarks.console_reader URL SESSION

Prints how much was read as JSON; fails when a page does not come.
"""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable

import httpx2

EXPORT = "/admin/billing/usagerecord/csv/"
HOME = "/admin/"


class Reader:
    """Two threads, one for each page."""

    def __init__(self, url: str, session: str) -> None:
        self._url, self._session = url, session
        self._stopping = threading.Event()
        self._read: Counter[str] = Counter()
        self._failures: list[str] = []
        self._threads = [threading.Thread(target=self._repeat, args=[page]) for page in (self._home, self._export)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> Counter[str]:
        """What was read. Exits with a line when a page did not come."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            sys.exit(self._failures[0])
        return self._read

    def _repeat(self, page: Callable[[httpx2.Client], None]) -> None:
        try:
            with httpx2.Client(base_url=self._url, cookies={"sessionid": self._session}, timeout=120) as client:
                while not self._stopping.is_set():
                    page(client)
        except httpx2.HTTPError as error:
            self._failures.append(f"{type(error).__name__}: {error}")

    def _home(self, client: httpx2.Client) -> None:
        _opened(client.get(HOME))
        self._read["homes"] += 1

    def _export(self, client: httpx2.Client) -> None:
        with client.stream("GET", EXPORT) as answer:
            _opened(answer)
            for chunk in answer.iter_bytes():
                self._read["export_rows"] += chunk.count(b"\n")
                if self._stopping.is_set():
                    return
        self._read["whole_exports"] += 1


def _opened(answer: httpx2.Response) -> None:
    """A redirect to the login is no page either. Raises HTTPError."""
    if answer.status_code != 200:
        raise httpx2.HTTPError(f"{answer.url} answered {answer.status_code}")


if __name__ == "__main__":
    reader = Reader(*sys.argv[1:3])
    reader.start()
    sys.stdin.read()
    print(json.dumps(reader.stop()))
