"""The command line of `make bench`, its tables, and the answers its load generator reads."""

from pathlib import Path

import pytest

from benchmarks.flame import shares
from benchmarks.gateway import NAMES, options_of
from benchmarks.peers import LITELLM, PORTKEY, PeerSkipped
from benchmarks.table import as_markdown, as_text, into, verdict_rows
from benchmarks.targets import judge
from benchmarks.wire import AnswerReader, request_bytes

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def test_everything_is_measured_unless_told_otherwise() -> None:
    options = options_of([])

    assert (options.only, options.rounds, options.seconds, options.report_only) == (list(NAMES), 3, 4.0, False)


def test_a_quick_run_has_fewer_figures_in_shorter_windows() -> None:
    options = options_of(["--quick", "--rounds", "1"])

    assert options.only == ["whole-64", "whole-256", "stream-64", "slow-64", "slow-stream-16", "peers", "start"]
    assert (options.rounds, options.seconds) == (1, 2.0)


def test_figures_are_taken_in_their_own_order() -> None:
    assert options_of(["--only", "console,whole-16,memory"]).only == ["whole-16", "memory", "console"]


@pytest.mark.parametrize("words", [["--only", "whole-64,whole-65"], ["--rounds", "0"]])
def test_what_cannot_be_measured_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        options_of(words)

    assert exit_.value.code == 2
    assert ("whole-65; there are whole-1" if "--only" in words else "--rounds is at least 1") in capsys.readouterr().err


def test_a_missed_target_is_marked_in_the_table() -> None:
    rows = verdict_rows(judge({"rate_against_proxy": 0.25, "open_stream_failures": 0}))

    lines = as_text(rows).splitlines()
    assert [line.split()[-1] for line in lines if "bare proxy, whole" in line] == ["MISSED"]
    assert rows[3] == [
        "requests/s against the bare proxy, whole answers, 64 clients",
        "0.25 x",
        "at least 0.3 x",
        "0.55 x",
        "MISSED",
    ]
    assert rows[10] == ["failures of 2,000 open slow streams in one process", "0.00", "0", "0", "aim met"]
    assert as_markdown(rows).splitlines()[1] == "| --- | --- | --- | --- | --- |"


def test_figures_take_the_place_of_the_last_ones(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- this: begin -->\nold\n<!-- this: end -->\nafter\n")

    into(document, "this", "new")

    assert document.read_text() == "before\n<!-- this: begin -->\n\nnew\n\n<!-- this: end -->\nafter\n"


def test_of_a_flame_graph_only_our_larger_frames_are_told() -> None:
    frames = [
        ("Server.run", "uvicorn/server.py", "100.00", "0.0", "20"),
        ("ModelCall.run", "routing/pipeline.py", "50.10", "3.0", "60"),
        ("choose", "routing/choice.py", "4.00", "9.0", "100"),
        ("uuid7", "iafactory/common/ids.py", "0.74", "5.0", "100"),
        ("GroupCommit._run", "billing/ledger/writer.py", "7.86", "1.5", "60"),
    ]
    drawing = "".join(
        f'<g><title>{function} ({file}:7) (1,234 samples, {percent}%)</title><rect x="{left}%" y="{depth}" width="1%"/></g>'
        for function, file, percent, left, depth in frames
    )

    assert shares(drawing) == [
        ["function", "file", "share"],
        ["`GroupCommit._run`", "`billing/ledger/writer.py`", "8 %"],
        ["`ModelCall.run`", "`routing/pipeline.py`", "50 %"],
        ["`choose`", "`routing/choice.py`", "4 %"],
    ]


def test_a_document_without_marks_stays_as_it_is(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("text\n")

    with pytest.raises(SystemExit):
        into(document, "this", "new")

    assert document.read_text() == "text\n"


def test_a_request_says_how_long_its_body_is() -> None:
    raw = request_bytes("http://127.0.0.1:9", "/v1/x", {"authorization": "Bearer k"}, '{"a": "é"}')

    assert raw == (
        b"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:9\r\ncontent-type: application/json\r\ncontent-length: 11\r\n"
        b'authorization: Bearer k\r\n\r\n{"a": "\xc3\xa9"}'
    )


def test_an_answer_is_whole_when_its_length_has_come() -> None:
    answer = AnswerReader()

    ends = [answer.feed(part) for part in (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", b"\r\n", b"ab", b"cd")]

    assert ends == [False, False, False, True]
    assert (answer.status, answer.good, answer.received) == (200, True, 4)


def test_the_first_byte_is_that_of_the_body() -> None:
    answer = AnswerReader()

    answer.feed(STREAM_HEAD)
    head_only = answer.first_byte_at
    answer.feed(b"5\r\ndata:")

    assert head_only is None
    assert answer.first_byte_at is not None


def test_a_stream_that_ends_without_its_last_event_failed() -> None:
    failed, good = AnswerReader(), AnswerReader()

    ends = [
        failed.feed(STREAM_HEAD + b"9\r\ndata: {}\n\n\r\n0\r\n\r\n"),
        good.feed(STREAM_HEAD + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"),
    ]

    assert ends == [True, True]
    assert (failed.status, failed.good, good.good) == (200, False, True)


def test_a_head_that_ends_like_a_stream_is_no_end() -> None:
    answer = AnswerReader()

    ends = [answer.feed(STREAM_HEAD[:-2] + b"x-request-id: 10\r\n\r\n"), answer.feed(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")]

    assert ends == [False, True]
    assert answer.good


def test_a_reader_begins_anew() -> None:
    answer = AnswerReader()
    answer.feed(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")
    first = (answer.status, answer.good)

    answer.reset()
    whole = answer.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    assert (first, whole, answer.status, answer.received) == ((500, False), True, 200, 2)


def test_a_gateway_that_cannot_be_installed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))

    with pytest.raises(PeerSkipped, match="npm and node are not there"):
        PORTKEY.install()

    assert (PORTKEY.installed, list(tmp_path.iterdir())) == (False, [])


def test_other_gateways_see_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")

    assert "OPENAI_API_KEY" not in LITELLM.environment(tmp_path)
    assert LITELLM.command(4000)[1:] == ["--host=127.0.0.1", "--num_workers=1", "--port=4000"]
