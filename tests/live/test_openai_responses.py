"""OpenAI's official client and `responses` against the product: with a model of every protocol, whole and streamed."""

from typing import Any

import openai
import pydantic
import pytest
from openai import OpenAI

from billing.ledger.models import UsageRecord
from tests.live.conftest import Customer, Live

# One model of each protocol the simulator speaks, and its provider.
MODELS = [
    ("gpt-5-mini", "openai"),
    ("llama-3.3-70b", "groq"),
    ("claude-haiku-5-5", "anthropic"),
    ("gemini-2.5-flash", "google"),
    ("command-a-03-2025", "cohere"),
]
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


def client_of(live: Live, customer: Customer) -> OpenAI:
    return OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret, max_retries=0)


def usage_rows(customer: Customer) -> list[UsageRecord]:
    return list(UsageRecord.objects.filter(account=customer.account).order_by("started_at"))


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_whole_and_streamed_responses_are_served_and_charged(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)
    live.behave(provider, prompt_tokens=1000, output_tokens=100)

    whole = client.responses.create(model=model, instructions="Be short.", input="hello", store=False)
    with client.responses.stream(model=model, instructions="Be short.", input="hello") as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        streamed = stream.get_final_response()

    assert whole.output_text == streamed.output_text == said
    assert said.startswith(f"IA Factory's simulator answers for {provider}. You asked: hello")
    for response in (whole, streamed):
        assert (response.status, response.model, response.instructions) == ("completed", model, "Be short.")
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.output_tokens) == (1000, 100)
    rows = usage_rows(customer)
    assert [(row.provider, row.end, row.endpoint, row.streamed) for row in rows] == [
        (provider, "complete", "/v1/responses", False),
        (provider, "complete", "/v1/responses", True),
    ]
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(1000, 100)] * 2
    assert min(row.credits_charged for row in rows) > 0
    assert customer.wallet() == (100 - sum(row.credits_charged for row in rows), 0)


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_tools_travel_both_ways(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)
    ask: Any = [{"role": "user", "content": "hello"}]

    first = client.responses.create(model=model, input=ask, tools=[WEATHER], tool_choice="required")
    with client.responses.stream(model=model, input=ask, tools=[WEATHER], tool_choice="required") as stream:
        streamed: Any = stream.get_final_response().output[-1]
    call: Any = first.output[-1]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "12 °C"}
    second = client.responses.create(model=model, input=[*ask, *first.output, result], tools=[WEATHER])

    assert (call.type, call.name, streamed.name) == ("function_call", "weather", "weather")
    assert streamed.arguments == call.arguments
    assert (first.status, second.status) == ("completed", "completed")
    assert second.output_text.startswith("IA Factory's simulator")
    assert [row.end for row in usage_rows(customer)] == ["complete"] * 3


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_pictures_are_seen_by_every_protocol(model: str, provider: str, live: Live) -> None:
    picture: Any = {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    question: Any = [{"role": "user", "content": [{"type": "input_text", "text": "what is this?"}, picture]}]

    seen = client_of(live, live.customer()).responses.create(model=model, input=question)

    assert "You asked: what is this?" in seen.output_text


# The simulator's OpenAI dialect fills no schemas.
@pytest.mark.parametrize("model", ["claude-haiku-5-5", "gemini-2.5-flash", "command-a-03-2025"])
def test_formats_are_kept_by_other_protocols(model: str, live: Live) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
    wanted: Any = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}

    formed = client_of(live, live.customer()).responses.create(model=model, input="hello", text=wanted)

    assert formed.output_text.startswith('{"a":')


class _Answer(pydantic.BaseModel):
    a: int


@pytest.mark.parametrize("model", ["claude-haiku-5-5", "gemini-2.5-flash", "command-a-03-2025"])
def test_the_client_parses_what_it_asked_for(model: str, live: Live) -> None:
    client = client_of(live, live.customer())

    whole = client.responses.parse(model=model, input="hello", text_format=_Answer)
    with client.responses.stream(model=model, input="hello", text_format=_Answer) as stream:
        streamed = stream.get_final_response()

    assert isinstance(whole.output_parsed, _Answer)
    assert streamed.output_parsed == whole.output_parsed


def test_a_response_cut_by_its_limit_is_incomplete(live: Live) -> None:
    client = client_of(live, live.customer())

    whole = client.responses.create(model="llama-3.3-70b", input="hello", max_output_tokens=5)
    events = list(client.responses.create(model="llama-3.3-70b", input="hello", max_output_tokens=5, stream=True))

    assert (whole.status, whole.incomplete_details and whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert events[-1].type == "response.incomplete"


def test_what_would_need_a_memory_is_refused_and_costs_nothing(live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)
    call: Any = {"model": "llama-3.3-70b", "input": "hello"}

    with pytest.raises(openai.BadRequestError) as stored:
        client.responses.create(**call, store=True)
    with pytest.raises(openai.BadRequestError) as continued:
        client.responses.create(**call, previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError) as later:
        client.responses.create(**call, background=True)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")

    assert (stored.value.code, stored.value.param) == ("state_not_kept", "store")
    assert (continued.value.code, continued.value.param) == ("state_not_kept", "previous_response_id")
    assert (later.value.code, later.value.param) == ("background_not_offered", "background")
    assert customer.wallet() == (100, 0)
    assert usage_rows(customer) == []


def test_fields_that_no_provider_takes_are_named_as_the_client_knows_them(live: Live) -> None:
    client = client_of(live, live.customer())

    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="claude-haiku-5-5", input="hello", text={"format": {"type": "json_object"}})
    heard = client.responses.with_raw_response.create(model="claude-haiku-5-5", input="hello", temperature=0.5)

    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "text.format")
    assert "`text.format`" in caught.value.message
    assert heard.headers["x-iaf-dropped"] == "temperature"


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, openai.BadRequestError), (429, openai.InternalServerError), (500, openai.InternalServerError)],
)
def test_failures_are_the_client_s_exceptions(status: int, error: type[openai.APIStatusError], live: Live) -> None:
    customer = live.customer()
    live.behave("groq", fail_status=status)
    live.behave("openrouter", fail_status=status)

    with pytest.raises(error) as caught:
        client_of(live, customer).responses.create(model="llama-3.3-70b", input="hello")

    assert caught.value.request_id is not None
    assert customer.wallet() == (100, 0)


def test_refusals_before_the_call_are_the_client_s_exceptions(live: Live) -> None:
    customer = live.customer()

    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{live.url}/v1", api_key="sk-no", max_retries=0).responses.create(model="auto", input="hello")
    with pytest.raises(openai.NotFoundError):
        client_of(live, customer).responses.create(model="gpt-0", input="hello")
    with pytest.raises(openai.APIStatusError) as broke:
        client_of(live, live.customer(credits=0)).responses.create(model="llama-3.3-70b", input="hello")

    assert (broke.value.status_code, broke.value.code) == (402, "insufficient_credits")


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_a_stream_that_breaks_raises_and_is_charged_for_what_was_delivered(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    live.behave(provider, drop_after_chunks=2)
    read: list[str] = []

    stream = client_of(live, customer).responses.create(model=model, input="hello", stream=True)
    with pytest.raises(openai.APIError) as caught:
        read.extend(event.type for event in stream)

    assert caught.value.code == "provider_error"
    assert read[-1] == "response.output_text.delta"
    row = usage_rows(customer)[0]
    assert row.end == "upstream_dropped"
    assert row.credits_charged > 0


def test_a_repetition_gets_the_same_response_once_paid(live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)
    once: Any = {"extra_headers": {"idempotency-key": "once"}}

    first = client.responses.create(model="llama-3.3-70b", input="hello", **once)
    second = client.responses.create(model="llama-3.3-70b", input="hello", **once)

    assert first == second
    assert len(usage_rows(customer)) == 1


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"model":', 400),
        (b'{"model": "llama-3.3-70b", "input": ' + b"[" * 990 + b"]" * 990 + b"}", 400),
        (b'{"model": "a\\u0000b", "input": "x"}', 400),
        (b'{"model": "m", "input": [' + b'{"role": "king"},' * 20_000 + b"0]}", 400),
        (b'{"model": "m", "input": "x", "metadata": ' + b'{"a":' * 900 + b"1" + b"}" * 901, 400),
        (b'{"model": "m", "input": "x", "text": {"x": ' + b"[" * 900 + b"]" * 900 + b"}}", 400),
        (b'{"a": "' + b"x" * 1_100_000 + b'"}', 413),
    ],
    ids=["empty", "list", "cut", "deep", "NUL", "many wrong", "deep metadata", "deep text", "huge"],
)
def test_broken_bodies_are_the_client_s_fault(content: bytes, status: int, live: Live) -> None:
    customer = live.customer()

    response = live.post("/v1/responses", customer, content=content)

    assert response.status_code == status
    assert response.json()["error"]["code"]
    assert customer.wallet() == (100, 0)
