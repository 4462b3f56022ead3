"""Every call is paid once and exactly, whole and streamed, under load and when clients leave."""

from decimal import Decimal

from django.core.management import call_command
from django.db.models import Sum
from openai import OpenAI

from billing.ledger.models import Hold, LedgerEntry, LedgerTransaction, UsageRecord
from tests.live.conftest import Live, wait_until
from tests.live.load import run_hang_up, run_load

D = Decimal
MESSAGES = [{"role": "user", "content": "Bonjour !"}]


def chat(**fields: object) -> dict[str, object]:
    return {"model": "llama-3.3-70b", "messages": MESSAGES, "max_tokens": 16, **fields}


def test_the_official_client_gets_whole_and_streamed_answers_with_usage(live: Live) -> None:
    customer = live.customer(plan="exact")
    client = OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret)
    before = D(str(live.get("/v1/balance", customer).json()["balance"]))

    whole = client.chat.completions.create(model="auto", messages=MESSAGES)  # type: ignore[arg-type]
    stream = client.chat.completions.create(
        model="auto",
        messages=MESSAGES,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "simulator" in (whole.choices[0].message.content or "")
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 24)
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (6, 24)
    rows = UsageRecord.objects.filter(account=customer.account)
    assert sorted(rows.values_list("end", "input_tokens", "output_tokens", "streamed")) == [
        ("complete", 6, 24, False),
        ("complete", 6, 24, True),
    ]
    charged = rows.aggregate(total=Sum("credits_charged"))["total"]
    after = D(str(live.get("/v1/balance", customer).json()["balance"]))
    # 6 x 0.59 + 24 x 0.79 USD per million = 0.0000225 USD; x 1.8 / 0.01 = 0.00405 credits, twice.
    assert charged == D("0.008100")
    assert before - after == charged


def test_a_thousand_calls_from_64_clients_are_booked_to_the_last_credit(live: Live) -> None:
    customer = live.customer(plan="exact", credits=1000)
    bodies = [chat(stream=position % 2 == 0) for position in range(1000)]

    result = run_load(live.url, customer.headers, bodies, clients=64)

    assert result.statuses == {200: 1000}
    assert result.complete == 1000
    rows = UsageRecord.objects.filter(account=customer.account)
    assert rows.filter(end="complete").count() == rows.count() == 1000
    charged = rows.aggregate(total=Sum("credits_charged"))["total"]
    # 6 x 0.59 + 16 x 0.79 USD per million = 0.00001618 USD; x 180 = 0.0029124, to the millionth 0.002912.
    assert charged == 1000 * D("0.002912")
    assert customer.wallet() == (1000 - charged, D(0))
    ledger = LedgerEntry.objects.filter(ledger_account_id=customer.account.pk).aggregate(total=Sum("amount"))["total"]
    assert ledger == 1000 - charged
    assert not Hold.objects.filter(account=customer.account).exists()
    call_command("verify_books")


def test_ten_credits_pay_exactly_ten_of_two_hundred_parallel_calls(live: Live) -> None:
    customer = live.customer(plan="whole", credits=10)

    result = run_load(live.url, customer.headers, [chat() for _ in range(200)], clients=200)

    assert result.statuses == {200: 10, 402: 190}
    assert result.codes == {"insufficient_credits": 190}
    assert customer.wallet() == (D(0), D(0))
    assert UsageRecord.objects.filter(account=customer.account).count() == 10
    assert live.received("groq") == 10
    call_command("verify_books")


def test_no_credits_means_nothing_called_and_nothing_written(live: Live) -> None:
    customer = live.customer(plan="exact", credits=0)

    response = live.post("/v1/chat/completions", customer, json=chat())

    assert response.status_code == 402
    assert response.json()["error"]["code"] == "insufficient_credits"
    assert response.headers["x-should-retry"] == "false"
    assert live.received("groq") == 0
    assert not UsageRecord.objects.filter(account=customer.account).exists()
    assert not LedgerTransaction.objects.filter(account=customer.account).exists()


def test_a_client_that_leaves_mid_stream_pays_for_what_it_got(live: Live) -> None:
    customer = live.customer(plan="exact")
    live.behave("*", chunk_interval_ms=100, chunks=50, output_tokens=100)

    begun = run_hang_up(live.url, customer.headers, chat(stream=True, max_tokens=100), clients=1, after_chunks=3)
    wait_until(lambda: not Hold.objects.filter(account=customer.account).exists(), what="hold closed")

    assert begun == 1
    row = UsageRecord.objects.get(account=customer.account)
    assert (row.end, row.estimated, row.streamed) == ("client_gone", True, True)
    # 50 chunks of about 8 bytes: three were read, a few more were under way. All 100 tokens would be 100.
    assert 3 <= row.output_tokens <= 80
    assert 0 < row.credits_charged < row.credits_held
    assert customer.wallet() == (100 - row.credits_charged, D(0))


def test_all_clients_of_a_load_hang_up_and_every_call_is_settled(live: Live) -> None:
    customer = live.customer(plan="exact")
    # Ten seconds: none is at its end before all have begun.
    live.behave("*", chunk_interval_ms=200, chunks=50, output_tokens=100)

    begun = run_hang_up(live.url, customer.headers, chat(stream=True, max_tokens=100), clients=64)
    wait_until(lambda: not Hold.objects.filter(account=customer.account).exists(), what="holds closed")

    rows = UsageRecord.objects.filter(account=customer.account)
    assert begun == 64
    assert rows.filter(end="client_gone", credits_charged__gt=0).count() == rows.count() == 64
    charged = rows.aggregate(total=Sum("credits_charged"))["total"]
    assert customer.wallet() == (100 - charged, D(0))
    call_command("verify_books")


def test_a_whole_answer_nobody_waited_for_costs_the_operator_not_the_customer(live: Live) -> None:
    customer = live.customer(plan="exact")
    live.behave("*", latency_ms=1500)

    live.hang_up("/v1/chat/completions", customer, "openai", chat(model="gpt-6-luna"))
    wait_until(lambda: UsageRecord.objects.filter(account=customer.account).exists(), what="settled")

    row = UsageRecord.objects.get(account=customer.account)
    assert (row.end, row.credits_charged, row.output_tokens) == ("client_gone", D(0), 16)
    loss = LedgerEntry.objects.get(transaction_id=row.pk, ledger_account__kind="operator_loss")
    assert (loss.unit, loss.amount) == ("USD", row.cost_usd)
    assert row.cost_usd > 0


def test_a_provider_that_drops_the_stream_is_paid_for_what_it_delivered(live: Live) -> None:
    customer = live.customer(plan="exact")
    live.behave("*", drop_after_chunks=3, chunks=10, output_tokens=100)

    response = live.post("/v1/chat/completions", customer, json=chat(stream=True, max_tokens=100))

    events = response.text.strip().split("\n\n")
    assert response.status_code == 200
    assert '"code":"provider_error"' in events[-1]
    assert "[DONE]" not in response.text
    row = UsageRecord.objects.get(account=customer.account)
    assert (row.end, row.error_code, row.estimated) == ("upstream_dropped", "provider_error", True)
    assert 0 < row.output_tokens < 100
    assert customer.wallet() == (100 - row.credits_charged, D(0))


def test_a_provider_that_fails_costs_nothing(live: Live) -> None:
    customer = live.customer(plan="exact")
    live.behave("*", fail_status=500)

    response = live.post("/v1/chat/completions", customer, json=chat(model="gpt-6-luna"))

    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_error")
    row = UsageRecord.objects.get(account=customer.account)
    assert (row.end, row.credits_charged, row.cost_usd, row.quota_units) == ("provider_error", D(0), D(0), 0)
    assert customer.wallet() == (D(100), D(0))


def test_usage_is_counted_by_us_when_the_provider_reports_none(live: Live) -> None:
    customer = live.customer(plan="exact")
    live.behave("*", omit_usage=True)

    whole = live.post("/v1/chat/completions", customer, json=chat()).json()
    streamed = live.post("/v1/chat/completions", customer, json=chat(stream=True, stream_options={"include_usage": True})).text

    rows = UsageRecord.objects.filter(account=customer.account)
    assert list(rows.values_list("estimated", flat=True)) == [True, True]
    assert whole["usage"]["completion_tokens"] == rows.get(streamed=False).output_tokens > 0
    assert f'"completion_tokens":{rows.get(streamed=True).output_tokens}' in streamed


def test_a_short_balance_shortens_the_answer_instead_of_refusing_it(live: Live) -> None:
    customer = live.customer(plan="exact", credits="0.1")

    response = live.post("/v1/chat/completions", customer, json=chat(max_tokens=4096))
    with_tools = live.post(
        "/v1/chat/completions",
        customer,
        json=chat(max_tokens=4096, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    )

    assert response.status_code == 200
    assert 256 <= int(response.headers["x-iaf-max-tokens-lowered-to"]) < 4096
    assert (with_tools.status_code, with_tools.json()["error"]["code"]) == (402, "insufficient_credits")
