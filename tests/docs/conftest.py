"""The running product, for the examples."""

import signal
from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from routing.catalog import catalog_load
from tests.live.conftest import Live, free_port, live_database, start_simulator, start_web

__all__ = ["live_database", "product"]


@pytest.fixture(scope="module")
def product(
    live_database: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Simulator and web server with the shipped catalogue. What examples write stays: the books verify all the same."""
    logs = tmp_path_factory.mktemp("docs")
    simulator_port, port = free_port(), free_port()
    simulator_url = f"http://127.0.0.1:{simulator_port}"
    with django_db_blocker.unblock():
        catalog_load()
        processes = [start_simulator(simulator_port, logs / "simulator.log")]
        try:
            processes.append(start_web(port, simulator_url, logs / "web.log"))
            yield Live(f"http://127.0.0.1:{port}", simulator_url, processes[-1])
        finally:
            connection.close()
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
                process.wait(60)
