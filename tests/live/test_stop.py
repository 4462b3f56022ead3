"""TERM in the middle of answers: what is under way ends, is booked, and only then the process goes."""

import signal
import threading
from pathlib import Path

import httpx2

from billing.ledger.models import Hold, UsageRecord
from tests.live.conftest import Live, free_port, start_web, wait_until

CHAT = "/v1/chat/completions"


def test_a_stopping_process_ends_its_streams_and_books_them(live: Live, tmp_path: Path) -> None:
    customer = live.customer(plan="exact")
    live.behave("groq", chunk_interval_ms=200, chunks=15)
    port = free_port()
    web = start_web(port, live.simulator_url, tmp_path / "web.log")
    body = {"model": "llama-3.3-70b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 64, "stream": True}
    seen: list[str] = []
    begun = threading.Event()

    def listen() -> None:
        with httpx2.stream("POST", f"http://127.0.0.1:{port}{CHAT}", headers=customer.headers, json=body, timeout=30) as answer:
            for line in answer.iter_lines():
                seen.append(line)
                begun.set()

    listeners = [threading.Thread(target=listen) for _ in range(5)]
    for listener in listeners:
        listener.start()
    assert begun.wait(60)
    wait_until(lambda: Hold.objects.filter(account=customer.account).count() == 5, what="five calls under way")
    web.send_signal(signal.SIGTERM)
    for listener in listeners:
        listener.join(30)
    ended = web.wait(60)

    assert ended in (0, -signal.SIGTERM)
    assert seen.count("data: [DONE]") == 5
    assert set(UsageRecord.objects.filter(account=customer.account).values_list("end", flat=True)) == {"complete"}
    assert UsageRecord.objects.filter(account=customer.account).count() == 5
    assert not Hold.objects.filter(account=customer.account).exists()
