"""Whatever a Hub sends, and however slowly, it ends soon and in one line; waits are said, and nothing secret is."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import Run
from hub import Hub
from huggingface_hub import close_session
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from test_bad_input import refused
from test_hub import BIG, CONFIG, EXPECTED, ID, STATE, WEIGHTS, arrays

from bertprobe.checkpoint import open_checkpoint, read_tensors
from bertprobe.checkpoint.hub import client, download, patience
from bertprobe.checkpoint.hub.endpoint import host_of, parse_endpoint, shown, without_secrets
from bertprobe.checkpoint.hub.headers import asked_to_wait, content_range, number
from bertprobe.errors import BertprobeError, HubError, shortened

STRETCH = 0.5  # seconds, in place of SLOW_AFTER's
API = "/api/models"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is waited for takes a fraction of a second."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", STRETCH)
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(patience, "SLOW_AFTER", STRETCH)
    monkeypatch.setattr(patience, "SILENCE", 60.0)
    monkeypatch.setattr(client, "STEPS", 1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def model(hub: Hub, here: Path) -> Hub:
    """The stand-in with a model."""
    hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG})
    return hub


def instead(status: str, *headers: str, body: bytes = b"") -> Callable[[bytes], Iterable[bytes]]:
    """Another answer in place of the right one."""
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""])
    return lambda right: [head.encode() + body]


def dripping(head: bytes, drop: bytes) -> Callable[[bytes], Iterable[bytes]]:
    """An answer that never ends: a drop every few hundredths of a second."""

    def pieces(right: bytes) -> Iterator[bytes]:
        yield head
        for _ in range(2000):
            time.sleep(0.02)
            yield drop

    return pieces


OK = b"HTTP/1.1 200 OK\r\n"
GZIP = b"\x1f\x8b\x08\x08\0\0\0\0\0\0"  # a name that ends with a zero byte is to follow

# ------------------------------------------------------------------------------------------------ slow


@pytest.mark.parametrize(
    ("how", "settings", "words"),
    [
        ("trickle_head", {"pause": 0.02}, "does not answer within 0.5 seconds"),
        ("trickle", {"pause": 0.02}, "sends fewer than 1,024 bytes a second"),
        ("raw", {"instead": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n")}, "does not answer within 0.5 seconds"),
    ],
    ids=["headers", "body", "interim answers"],
)
@pytest.mark.parametrize(
    ("origin", "match"), [("hub", API), ("hub", WEIGHTS), ("storage", "")], ids=["api", "redirect", "file"]
)
def test_every_part_of_an_answer_has_its_time(
    how: str, settings: dict[str, Any], words: str, origin: Any, match: str, model: Hub, run: Run
) -> None:
    model.misbehave(how, origin=origin, match=match, **settings)
    began = time.monotonic()
    if (how, match) == ("trickle", WEIGHTS):
        assert run(["inspect", ID]).code == 0, "the body of a redirect is not read"
    else:
        refused(run(["inspect", ID]), ID, words, "3 times in a row")
    assert time.monotonic() - began < 3 * STRETCH + 5


@pytest.mark.parametrize(
    "answer",
    [
        dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n5;", b"x"),
        dripping(OK + b"Content-Encoding: gzip\r\n\r\n" + GZIP, b"x"),
    ],
    ids=["chunk", "gzip"],
)
def test_what_never_becomes_a_part_of_the_answer_counts_for_nothing(answer: Any, model: Hub, run: Run) -> None:
    """The name of a chunk, and that of a packed file, may be as long as they like."""
    model.misbehave("raw", instead=answer, match=API)
    began = time.monotonic()
    refused(run(["inspect", ID]), ID, "sends fewer than 1,024 bytes a second, 3 times in a row")
    assert time.monotonic() - began < 3 * STRETCH + 2 * patience.FAREWELL, "hung up at once"


def test_a_slow_answer_is_asked_for_three_times_and_not_once_more_by_the_reader(model: Hub, run: Run) -> None:
    model.misbehave("trickle", pause=0.02, origin="storage")
    refused(run(["inspect", ID]), f"{ID}/{WEIGHTS}: 127.0.0.1", "fewer than 1,024 bytes a second, 3 times in a row")
    assert len([r for r in model.requests if r.origin == "storage"]) == patience.SELDOM


def test_a_head_that_could_not_be_fetched_is_fetched_again_later(model: Hub) -> None:
    model.misbehave("status", code=404, times=1, match="config.json")
    with pytest.raises(HubError, match="404"):
        open_checkpoint(ID)
    assert open_checkpoint(ID).config == json.loads(CONFIG)


def test_a_head_that_is_not_needed_may_fail(model: Hub) -> None:
    model.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG, "bert_config.json": CONFIG})
    model.misbehave("status", code=503, match="bert_config.json")  # config.json goes before it
    assert arrays(open_checkpoint(ID)) == EXPECTED


def test_a_range_that_came_whole_needs_no_proper_end(hub: Hub, here: Path) -> None:
    def chunk(right: bytes) -> Iterable[bytes]:
        head, gap, body = right.partition(b"\r\n\r\n")
        head = re.sub(rb"Content-Length: [0-9]+", b"Transfer-Encoding: chunked", head)
        return [head + gap, b"%x\r\n" % len(body), body, b"\r\n"]  # no chunk of no bytes, which ends an answer

    hub.add(ID, {WEIGHTS: BIG})
    hub.misbehave("raw", instead=chunk, origin="storage")
    checkpoint = open_checkpoint(ID)
    assert len([r for r in hub.requests if r.origin == "storage"]) == 1
    found = {n: array.tobytes() for n, array in read_tensors({n: checkpoint.headers[n] for n in EXPECTED})}
    assert found == EXPECTED


@pytest.mark.parametrize("match", [API, WEIGHTS])
def test_the_body_of_an_error_is_not_waited_for(match: str, model: Hub, run: Run) -> None:
    """Nor is it read without an end: chunks go on for ever here."""
    model.misbehave("status", code=404, match=match)
    model.misbehave("trickle", pause=0.05, errors=True, match=match)
    refused(run(["inspect", ID]), "answers 404")
    model.behave()
    more = dripping(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 2**16 + b"\r\n")
    model.misbehave("raw", instead=more, match=match)
    refused(run(["inspect", ID]), "answers 403 (No)")


def test_what_came_at_first_does_not_make_up_for_what_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(patience.time, "monotonic", lambda: now)
    pace = patience.Pace()
    for seconds, taken in ((0.5, 0), (1.1, 10**9), (1.9, 10**9), (2.2, 10**9 + 1000)):
        now = 1000 + seconds * STRETCH
        pace.check(taken, "somebody")
    now = 1000 + 3.3 * STRETCH
    with pytest.raises(patience.Dropped, match="somebody sends fewer than 1,024 bytes a second"):
        pace.check(10**9 + 1001, "somebody")


def test_a_listing_has_an_end_even_at_a_good_pace(model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_WITHIN", 0.6)
    model.misbehave("raw", instead=dripping(OK + b"\r\n[", b"0," * 1000), match=API)
    refused(run(["inspect", ID]), "does not end its answer within 0.6 seconds, 3 times in a row")
    model.behave()
    monkeypatch.setattr(client, "MOST", 1000)
    model.misbehave("raw", instead=instead("200 OK", body=b" " * 1001), match=API)
    refused(run(["inspect", ID]), "sends more than the 1,000 bytes that it may")


def test_what_a_proxy_has_packed_is_unpacked_to_an_end(model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model.misbehave("gzip", match=API, times=1)
    assert arrays(open_checkpoint(ID)) == EXPECTED
    monkeypatch.setattr(client, "MOST", 10_000)
    packed = zlib.compress(bytes(10**7), wbits=31)
    for encoding, body, words in (
        ("gzip", packed, "sends more than the 10,000 bytes"),
        ("gzip", b"no gzip", "answers with broken gzip"),
        ("gzip, gzip", packed, "answers with Content-Encoding 'gzip, gzip'"),
    ):
        model.behave()
        model.misbehave("raw", instead=instead("200 OK", f"Content-Encoding: {encoding}", body=body), match=API)
        refused(run(["inspect", ID]), words)


def test_what_huggingface_hub_asks_on_the_side_is_not_waited_for(model: Hub, run: Run, monkeypatch: Any) -> None:
    """Once a day it asks the Hub by what programs it may be run, when the headers are made."""
    from huggingface_hub.utils import _detect_agent

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", str(Path("nowhere.json").absolute()))
    monkeypatch.setattr(_detect_agent, "_registry", None)
    model.misbehave("trickle_head", pause=0.02, match="agent-harnesses")
    refused(run(["inspect", ID]), "does not answer within 0.5 seconds")


def test_an_answer_that_nobody_waits_for_is_closed_when_it_comes(model: Hub) -> None:
    model.misbehave("hang", seconds=0.8, times=1, match=API)
    assert arrays(open_checkpoint(ID)) == EXPECTED
    deadline = time.monotonic() + 5
    while any(t.name.endswith("(work)") for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [t for t in threading.enumerate() if t.name.endswith("(work)")]


def test_nothing_that_still_trickles_keeps_the_process_from_ending(model: Hub) -> None:
    model.misbehave("trickle_head", pause=0.05, match=WEIGHTS)
    code = f"""
import time
from bertprobe.checkpoint.hub import client, patience
patience.SELDOM = client.SELDOM = 1
client.STEPS = 0.5
from bertprobe.cli import main
began = time.monotonic()
try:
    main(["inspect", {ID!r}])
finally:
    print(time.monotonic() - began)
"""
    environment = {**model.environment, "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    began = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert time.monotonic() - began < float(ran.stdout) + 4


# ------------------------------------------------------------------------------------------------ waits


def test_a_wait_is_said_before_it_begins_and_stdout_stays_clean(
    model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    said: list[int] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        said.append(len(sys.stderr.getvalue().splitlines()))  # type: ignore[attr-defined]

    monkeypatch.setattr(patience, "SILENCE", 3.0)
    monkeypatch.setattr(patience.time, "sleep", sleep)
    model.misbehave("status", code=429, retry_after=200, times=1, match=API)
    ran = run(["inspect", ID, "--json"])
    assert (ran.code, waited, said) == (0, [200], [1])
    assert json.loads(ran.out)["facts"]["layers"] == 12
    host = model.endpoint.removeprefix("http://")
    assert ran.err == f"bertprobe: {ID}: {host} answers 429 (Too Many Requests); trying again in 200 seconds\n"
    assert not logging.getLogger("bertprobe").handlers, "main has taken away what it added"


def test_a_library_user_finds_it_in_the_log(
    model: Hub, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SILENCE", 3.0)
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    model.misbehave("status", code=503, retry_after=4, times=1, origin="storage")
    open_checkpoint(ID)
    (record,) = [record for record in caplog.records if record.name == "bertprobe"]
    assert record.levelname == "WARNING"
    assert "answers 503 (Service Unavailable); trying again in 4 seconds" in record.getMessage()
    assert capsys.readouterr() == ("", "")


def test_eight_that_wait_for_the_same_say_it_once(
    hub: Hub, here: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SILENCE", 0.5)
    hub.add(ID, {WEIGHTS: BIG})
    checkpoint = open_checkpoint(ID)
    hub.misbehave("status", code=429, retry_after=1, times=8, origin="storage")
    assert len(list(read_tensors({name: checkpoint.headers[name] for name in EXPECTED}))) == len(EXPECTED)
    assert len([r for r in hub.requests if r.status == 429]) == 8
    assert len([record for record in caplog.records if record.name == "bertprobe"]) == 1


def test_silence_is_broken_after_a_slow_try_too(model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SILENCE", 0.3)
    model.misbehave("trickle", pause=0.02, origin="storage")
    ran = run(["inspect", ID])
    *said, end = ran.err.splitlines()
    assert len(said) == 2
    assert all(re.search(r"fewer than 1,024 bytes a second; trying again now$", line) for line in said)
    assert "3 times in a row" in end


def test_patience_is_for_all_requests_together(model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 1.5)
    model.misbehave("status", code=429, retry_after=1, match=API, times=1)
    model.misbehave("status", code=429, retry_after=1, origin="storage")
    began = time.monotonic()
    refused(run(["inspect", ID]), "answers 429 (Too Many Requests), and asks to wait 1 seconds")
    assert time.monotonic() - began < 4
    together = patience.Patience()
    for _ in range(8):
        together.spend(1, "waits side by side count once")
    with pytest.raises(HubError, match="asks to wait 3 seconds"):
        together.spend(3, "more than is left")


# ------------------------------------------------------------------------------------------------ odd answers

DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (instead("206 Part", f"Content-Range: bytes 0-9/{DIGITS}", body=b"x" * 10), "the Content-Range 'bytes 0-9/999"),
        (instead("206 Part", "Content-Range: bytes ٠-٩/١٠", body=b"x" * 10), "the Content-Range 'bytes ٠-٩/١٠'"),
        (instead("429 No", "Retry-After: ²"), "answers 429 (No) and Retry-After '²', 6 times in a row"),
        (instead("503 No", f"Retry-After: {DIGITS}"), "answers 503 (No) and Retry-After '999"),
        (instead("429 No", "Retry-After: 999999999999"), "asks to wait 999,999,999,999 seconds"),
        (instead("429 No", f'RateLimit: "api";r=0;t={DIGITS}'), "answers 429 (No), 6 times in a row"),
        (instead("302 Found", "Location: http://[::1"), "redirects to http://[::1, which is no https address"),
        (instead("302 Found", "Location: http://127.0.0.1:999999/x"), "redirects to http://127.0.0.1:999999/x, which"),
        (instead("302 Found", "Location: http://u:sekret@127.0.0.1:x/"), "redirects to http://…@127.0.0.1:x/, which"),
        (instead("302 Found", "Location: javascript:1"), "redirects to javascript:1, which is no https address"),
        (instead("404 \x1b[2Jgone" + "e" * 1000), "answers 404"),
        (
            instead("404 No", "X-Error-Code: é", "X-Error-Message: http://u:sekret@h/ é"),
            "answers 404 (No): http://h/ é",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("match", [API, WEIGHTS], ids=["api", "file"])
def test_an_odd_answer_is_told_in_one_line(
    answer: Callable[[bytes], Iterable[bytes]], words: str, match: str, model: Hub, run: Run
) -> None:
    if "Content-Range" in words and match == API:
        return  # nobody asks the API for a range
    model.misbehave("raw", instead=answer, match=match)
    ran = run(["inspect", ID])
    refused(ran, ID, words)
    assert len(ran.err) < 1000
    assert "sekret" not in ran.err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (instead("200 OK", "no header"), "(illegal header line"),
        (instead("200 OK", "X: " + "x" * 200_000), "(Receive buffer too long)"),
        (instead("200 OK", f"Content-Length: {DIGITS}"), "(bad Content-Length)"),
        (lambda right: [b"SSH-2.0-OpenSSH_9.9\r\n\r\n"], "(illegal status line"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("origin", ["hub", "storage"])
def test_what_would_be_the_same_again_is_tried_once(answer: Any, words: str, origin: Any, model: Hub, run: Run) -> None:
    model.misbehave("raw", instead=answer, origin=origin, match=API if origin == "hub" else "")
    refused(run(["inspect", ID]), ID, "127.0.0.1", "answers otherwise than HTTP has it", words)
    assert len([r for r in model.requests if r.origin == origin and (origin == "storage" or API in r.path)]) == 1


def listing(**odd: Any) -> Callable[[bytes], Iterable[bytes]]:
    """The listing of the model with something odd in it."""

    def changed(right: bytes) -> Iterable[bytes]:
        told = json.loads(right.partition(b"\r\n\r\n")[2])
        for name, value in odd.items():
            if name in ("rfilename", "size"):
                told["siblings"][-1][name] = value
            else:
                told[name] = value
        return instead("200 OK", body=json.dumps(told).encode())(right)

    return changed


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"sha": "²" * 40}, "tells '²²"),
        ({"sha": "a" * 10**6}, "tells 'aaa"),
        ({"sha": ["a"]}, "for the commit"),
        ({"siblings": {"a": 1}}, "answers otherwise than the Hub"),
        ({"rfilename": "\ud800.safetensors"}, r"lists '\ud800.safetensors', which is no path of a file"),
        ({"rfilename": "x" * 10**6 + ".safetensors"}, "which is no path of a file"),
        ({"rfilename": "../model.safetensors"}, "lists '../model.safetensors', which is no path of a file"),
        ({"rfilename": {"a": 1}}, "which is no path of a file"),
        ({"rfilename": "\x1b[2J\u202e.ot"}, r"has \x1b[2J\u202e.ot, a rust-bert file"),
    ],
    ids=str,
)
def test_an_odd_listing_is_told_in_one_line(odd: dict[str, Any], words: str, model: Hub, run: Run) -> None:
    model.misbehave("raw", instead=listing(**odd), match=API)
    ran = run(["inspect", ID])
    refused(ran, words)
    assert len(ran.err) < 1000


@pytest.mark.parametrize("size", [10**40, 1.5, -1, True, None, "7", [7]], ids=str)
def test_a_size_that_is_none_is_asked_for_at_the_file(size: Any, model: Hub) -> None:
    model.misbehave("raw", instead=listing(size=size), match=API)
    assert arrays(open_checkpoint(ID)) == EXPECTED


def test_a_name_that_no_model_can_have_is_not_taken_for_its_new_one(model: Hub) -> None:
    model.misbehave("raw", instead=listing(id="x\x1b[2J" * 10_000), match=API)
    assert not [note for note in open_checkpoint(ID).notes if "it is" in note]


def test_numbers_in_headers() -> None:
    odd = ("", "²", "-1", "+1", "1.5", "1e3", "1_000", "٣", " 1", DIGITS, "0x1")
    assert [number({"content-length": said}, "content-length") for said in odd] == [None] * len(odd)
    assert (number({"content-length": "007"}, "content-length"), number({}, "content-length")) == (7, None)
    assert content_range({"content-range": "bytes 1-2/*"}) == (1, 2, None)
    for said in odd:
        assert content_range({"content-range": f"bytes 0-{said}/7"}) is None
    for said in (*odd[:7], DIGITS, "Wed, 99 Oct 99999999999 07:28:00 GMT", "Wed, 21 Oct 0001 07:28:00 -0000", "," * 99):
        assert asked_to_wait({"retry-after": said}, 429) in (None, 0.0), said
    assert asked_to_wait({"ratelimit": '"api";r=0;t=55'}, 429) == 56
    assert asked_to_wait({"ratelimit": '"api";r=0;t=55'}, 503) is None


def test_a_warning_of_the_hub_is_not_printed_as_it_is(model: Hub, run: Run) -> None:
    model.misbehave("raw", instead=instead("404 No", "X-HF-Warning: some; \x1b[31mred"), match=API)
    refused(run(["inspect", ID]), "answers 404")


def test_an_error_whose_json_is_a_list(model: Hub, run: Run) -> None:
    model.misbehave("raw", instead=instead("404 No", body=b"[1]"), match=WEIGHTS)
    refused(run(["inspect", ID]), "answers 404 (No)")
    refused(run(["inspect", ID, "--download"]), ID)


def test_names_in_a_message_are_not_longer_than_a_line() -> None:
    assert shortened(["a" * 1000, "b"]) == "a" * 99 + "…, b"


# ------------------------------------------------------------------------------------------------ the environment


@pytest.mark.parametrize(
    "said",
    ["", "foo", "file:///etc", "ftp://h", "http://", "http://127.0.0.1:99999", "http://[::1", "http://a b", "//h",
     "http://h/{x}", "http://h?x=1", "http://h#x", "https://user@", "http://user:se/kret@h", "http://user:12?sekret@h",
     "user:sekret@h", "http://user:sekret@[::1", "http://[user:sekret@h]/", "http://user:12/sekret@h"],
)  # fmt: skip
def test_an_endpoint_that_is_none_is_refused_at_once(said: str, model: Hub, run: Run, monkeypatch: Any) -> None:
    """In a process of its own, where huggingface_hub is imported with it, and in this one."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", said)
    monkeypatch.setenv("HF_ENDPOINT", said)
    ran = run(["inspect", ID])
    refused(ran, "HF_ENDPOINT is '", "which is no http:// or https:// address; unset it")
    assert "kret" not in ran.err
    assert "user" not in ran.err.partition(";")[0]
    assert not model.requests


@pytest.mark.parametrize("said", ["http://127.0.0.1:99999", "http://user:sekret@[::1"])
def test_an_endpoint_that_huggingface_hub_cannot_be_imported_with(said: str, model: Hub) -> None:
    ran = in_a_process({**model.environment, "HF_ENDPOINT": said})
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert ran.stderr.startswith("bertprobe: HF_ENDPOINT is '")
    assert "sekret" not in ran.stderr


def in_a_process(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bertprobe", "inspect", ID],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "abc",
            "cannot read the environment (invalid literal for int() with base 10: 'abc')",
        ),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "-1", "HF_HUB_DOWNLOAD_TIMEOUT is '-1'"),
        ("SSL_CERT_FILE", "/nowhere", "cannot open a connection ([Errno 2] No such file or directory)"),
        ("HTTP_PROXY", "foo://u:sekret@h", "cannot open a connection (Unknown scheme for proxy URL URL('foo://h'))"),
        ("ALL_PROXY", "socks5://u:sekret@127.0.0.1:1", "cannot open a connection"),
    ],
)
def test_an_odd_variable_is_told_in_one_line(name: str, value: str, words: str, model: Hub) -> None:
    ran = in_a_process({**model.environment, name: value})
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert words in ran.stderr
    assert "sekret" not in ran.stderr
    assert not model.requests


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 10**400])
def test_time_outs_have_a_range(seconds: float, model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", seconds)
    if seconds == 10**400:
        assert run(["inspect", ID]).code == 0
    else:
        refused(run(["inspect", ID]), f"HF_HUB_DOWNLOAD_TIMEOUT is '{seconds}'")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HF_TOKEN", "hf_sekreté", ("the token has the character U+00E9 in it", "unset HF_TOKEN")),
        ("HF_TOKEN", "hf_sekret\x01", ("the token has the character U+0001 in it",)),
        ("HF_TOKEN", "hf_sekret hf_other", ("the token has the character U+0020 in it",)),
    ],
)
def test_a_token_that_nobody_gave_out_is_not_sent(
    name: str, value: str, words: tuple[str, ...], model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    ran = run(["inspect", ID])
    refused(ran, *words)
    assert "sekret" not in ran.err
    assert not model.requests


def test_a_header_that_cannot_be_sent(model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_USER_AGENT_ORIGIN", "é")
    refused(run(["inspect", ID]), "the header user-agent cannot be sent", "HF_HUB_USER_AGENT_ORIGIN")


# ------------------------------------------------------------------------------------------------ secrets

BASIC = "Basic dXNlcjpzZS9rcmV0"  # user:se/kret


@pytest.fixture
def behind_a_password(model: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The stand-in, where it wants a user and a password, which are in HF_ENDPOINT."""
    model.token = BASIC
    address = model.endpoint.replace("//", "//user:se%2Fkret@")
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    return model


def told(ran: Any) -> str:
    """All that a run printed, which has no secret in it."""
    text = str(ran.out + ran.err)
    assert "kret" not in text
    assert "user:" not in text
    assert "user@" not in text
    assert BASIC[6:] not in text
    return text


@pytest.mark.parametrize("argv", [["--json"], ["--format", "markdown"], [], ["--download", "--json"]])
def test_a_password_logs_in_and_is_not_printed(argv: list[str], behind_a_password: Hub, run: Run) -> None:
    hub = behind_a_password
    hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG}, private=True)
    ran = run(["inspect", ID, *argv])
    assert ran.code == 0, ran.err
    assert hub.endpoint in "".join(told(ran).split())
    sent = {r.headers.get("authorization") for r in hub.requests if r.origin == "hub" and "harnesses" not in r.path}
    assert sent == {BASIC}
    assert not hub.leaks()


@pytest.mark.parametrize("page", ["http://user:se%2Fkret@{host}/owner/model", "http://{host}/owner/model/tree/main"])
def test_a_page_may_be_named_with_the_password_or_without(page: str, behind_a_password: Hub, run: Run) -> None:
    ref = page.format(host=host_of(behind_a_password.endpoint))
    for argv in (
        ["inspect", ref, "--json"],
        ["export", ref, "-o", "pooler.safetensors"],
        ["diff", ref, ref, "--json"],
        ["report", ref, "-o", "page.html"],
    ):
        ran = run(argv)
        assert ran.code == 0, ran.err
        told(ran)
    for name in ("pooler.safetensors", "page.html"):
        assert b"kret" not in Path(name).read_bytes()


@pytest.mark.parametrize("more", [[], ["--download"]], ids=["", "download"])
@pytest.mark.parametrize(
    ("how", "settings", "words"),
    [
        ("status", {"code": 404, "match": API}, "answers 404"),
        ("status", {"code": 401, "match": API}, "does not accept user and password; mend them in HF_ENDPOINT"),
        (
            "status",
            {"code": 403, "match": API, "headers": {"X-Error-Code": "GatedRepo"}},
            "accept its terms at http://127",
        ),
        ("status", {"code": 503, "match": API}, "answers 503"),
        ("html", {"match": API}, "does not answer in JSON"),
        ("redirect_loop", {"match": API}, "redirects more than 10 times"),
        ("reset", {"match": API}, "the connection to 127.0.0.1"),
        ("hang", {"seconds": 9, "match": API}, "127.0.0.1"),
        ("raw", {"instead": instead("200 OK", "no header"), "match": API}, "answers otherwise than HTTP has it"),
        ("status", {"code": 503, "match": WEIGHTS}, ID),
        ("status", {"code": 403, "match": WEIGHTS}, ID),
        ("html", {"match": WEIGHTS}, ID),
        ("reset", {"match": WEIGHTS}, ID),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_error_has_the_password_in_it(
    how: str, settings: dict[str, Any], words: str, more: list[str], behind_a_password: Hub, run: Run, monkeypatch: Any
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    behind_a_password.misbehave(how, **settings)
    ran = run(["inspect", ID, *more])
    assert ran.code == 1
    assert words in told(ran)
    assert "Traceback" not in ran.err


def test_no_message_has_what_an_address_is_signed_with() -> None:
    text = "GET https://u:p@h:1/a/b?Signature=s&x, 'http://h?s' and Bearer hf_x; see hf://owner@main"
    assert without_secrets(text) == "GET https://h:1/a/b 'http://h' and Bearer … see hf://owner@main"
    assert host_of("http://u:p@h:1/x") == "h:1"
    assert shown("http://u:p@h:1/x?Signature=s") == "http://h:1/x"
    assert shown("http://u:p/q@h:x/x?Signature=s") == "http://…@h:x/x?…"
    endpoint = parse_endpoint("HTTPS://us%40er:se%2Fkret@h:8/path/")
    assert (endpoint.url, endpoint.authorization) == ("https://h:8/path", "Basic dXNAZXI6c2Uva3JldA==")
    assert "Basic" not in repr(endpoint)


def test_a_redirect_with_a_password_is_followed_and_not_shown(model: Hub, run: Run) -> None:
    there = model.storage.replace("//", "//u:sekret@")
    model.misbehave("foreign_redirect", location=f"{there}/blob/none", match=WEIGHTS, origin="hub")
    ran = run(["inspect", ID])
    refused(ran, "answers 403")
    assert "sekret" not in ran.err


# ------------------------------------------------------------------------------------------------ downloads


@pytest.fixture
def quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LOOK", 0.02)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 1)


@pytest.mark.parametrize(
    ("how", "settings", "words"),
    [
        ("trickle_head", {"pause": 0.02, "match": "/blob/"}, "does not answer within 0.5 seconds"),
        ("trickle_head", {"pause": 0.02, "match": WEIGHTS, "origin": "hub"}, "does not answer within 0.5 seconds"),
        ("trickle", {"pause": 0.02, "match": "/blob/"}, "sends fewer than 1,024 bytes a second"),
        ("status", {"code": 429, "retry_after": 1000, "match": WEIGHTS}, "answers 429, and asks to wait 1,000 seconds"),
        ("raw", {"instead": dripping(OK + b"\r\n", b"x" * 2**20), "match": "/blob/"}, "bytes that it may"),
        ("raw", {"instead": instead("429 No", f"Retry-After: {DIGITS}"), "match": WEIGHTS}, "could not be downloaded"),
    ],
    ids=["headers", "headers of the hub", "body", "429", "endless", "digits"],
)
@pytest.mark.usefixtures("quick_look")
def test_a_download_ends_and_leaves_nothing_half_done(
    how: str, settings: dict[str, Any], words: str, model: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SLACK", 0)
    open_checkpoint(ID)
    model.misbehave(how, **settings)
    began = time.monotonic()
    ran = run(["inspect", ID, "--download"])
    assert time.monotonic() - began < 8
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith(f"bertprobe: {ID}")
    assert words in ran.err.splitlines()[-1]
    if settings.get("match") == "/blob/" and how != "trickle_head":
        assert not list(Path(model.environment["HF_HOME"]).rglob("*.incomplete"))
    model.behave()
    assert run(["inspect", ID, "--download"]).code == 0
    from huggingface_hub.utils import get_session

    assert [len(hooks) for hooks in get_session().event_hooks.values()] == [1, 0], "the session is as it was"


@pytest.mark.usefixtures("quick_look")
def test_what_huggingface_hub_logs_is_cleaned(
    behind_a_password: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names addresses, signatures and all, and what a server says may have colours in it."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    open_checkpoint(ID)
    behind_a_password.misbehave("reset", orderly=True, origin="storage", times=2)
    colours = instead("404 No", "X-Error-Code: EntryNotFound", "X-HF-Warning: some; \x1b[31mred")
    behind_a_password.misbehave("raw", instead=colours, origin="storage", skip=2)
    lines = logging.StreamHandler(sys.stderr)
    logging.getLogger("huggingface_hub").addHandler(lines)
    try:
        ran = run(["inspect", ID, "--download"])
    finally:
        logging.getLogger("huggingface_hub").removeHandler(lines)
    assert ran.code == 1
    assert "Error while downloading from http://127.0.0.1" in told(ran)
    assert r"\x1b[31mred" in ran.err
    assert "Signature" not in ran.err
    assert "\x1b" not in ran.err


# ------------------------------------------------------------------------------------------------ anything

HEADERS = (
    *("Content-Range", "Content-Length", "Content-Encoding", "Content-Type", "Transfer-Encoding", "Connection"),
    *("Retry-After", "RateLimit", "Location", "ETag", "Set-Cookie", "Link", "Date", "WWW-Authenticate", "X-HF-Warning"),
    *("X-Error-Code", "X-Error-Message", "X-Repo-Commit", "X-Linked-ETag", "X-Linked-Size"),
)
ODD = st.one_of(
    st.sampled_from(
        [
            *("", "²", "0", "1", "-1", "9" * 20, DIGITS, "1e400", "NaN", "bytes 0-9/*", "bytes 5-1/3"),
            *("http://[::1", "http://u:sekret@127.0.0.1:1/x", "//", "/", "?", "http://h:999999/", "https://%zz@/"),
            *("é", "\x1b[31m", "\u202e", "x" * 70_000, "Wed, 99 Xxx 99999999999999999999 99:99:99 +9999", "gzip"),
            *("br", "chunked", "close", "GatedRepo", "RepoNotFound", f'"api";r=0;t={DIGITS}', "text/html"),
            f"bytes 0-{DIGITS}/1",
        ]
    ),
    st.text(st.characters(max_codepoint=0x2FF, blacklist_characters="\r\n"), max_size=20),
)
STATUS = st.one_of(
    st.tuples(st.integers(100, 999), ODD).map(lambda line: f"HTTP/1.1 {line[0]} {line[1]}"),
    st.sampled_from(
        ["HTTP/1.1 200", "HTTP/2 200 OK", "HTTP/1.0 204 No Content", "ICY 200 OK", "HTTP/1.1 99999 No", "\0"]
    ),
)
Change = Callable[[bytes], bytes]


def with_header(name: str, value: str) -> Change:
    def change(right: bytes) -> bytes:
        head, gap, body = right.partition(b"\r\n\r\n")
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(name.lower().encode() + b":")]
        return b"\r\n".join([*kept, f"{name}: {value}".encode()]) + gap + body

    return change


def with_status(line: str) -> Change:
    return lambda right: line.encode() + b"\r\n" + right.partition(b"\r\n")[2]


def with_leaf(at: int, value: Any) -> Change:
    """Another value somewhere in the JSON of a body, or another body where there is none."""

    def change(right: bytes) -> bytes:
        head, gap, body = right.partition(b"\r\n\r\n")
        try:
            told = json.loads(body)
        except ValueError:
            return head + gap + json.dumps(value).encode()
        leaves = list(_leaves(told))
        if leaves:
            holder, key = leaves[at % len(leaves)]
            holder[key] = value
        return with_header("Content-Length", str(len(json.dumps(told))))(head + gap + json.dumps(told).encode())

    return change


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _leaves(inner)


def cut_at(share: float) -> Change:
    return lambda right: right[: int(share * len(right))]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**30), st.floats(), ODD, st.just("\ud800")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["rfilename", "size", "x"]), inner),
    max_leaves=4,
)
CHANGES = st.lists(
    st.one_of(
        st.builds(with_header, st.sampled_from(HEADERS), ODD),
        st.builds(with_status, STATUS),
        st.builds(with_leaf, st.integers(0, 50), JSON),
        st.builds(cut_at, st.floats(0, 1)),
    ),
    min_size=1,
    max_size=3,
)


@given(
    changes=CHANGES,
    match=st.sampled_from([API, "config.json", WEIGHTS, "/blob/"]),
    times=st.sampled_from([1, 2, None]),
    whole=st.booleans(),
)
@example(
    changes=[with_header("Retry-After", "²"), with_status("HTTP/1.1 429 No")], match=WEIGHTS, times=None, whole=False
)
@example(changes=[with_leaf(0, [1]), with_status("HTTP/1.1 404 No")], match=WEIGHTS, times=None, whole=True)
@settings(
    max_examples=60,
    deadline=20_000,  # milliseconds: a hang, not a slow machine
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_is_answered_there_is_a_model_or_one_line(
    changes: list[Change], match: str, times: int | None, whole: bool, model: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    close_session()  # with the cookies that it was given before
    model.behave()
    model.requests.clear()

    def changed(right: bytes) -> Iterable[bytes]:
        for change in changes:
            right = change(right)
        return [right]

    model.misbehave("raw", instead=changed, match=match, times=times)
    line = ""
    with TemporaryDirectory() as cache:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
        try:
            arrays(open_checkpoint(ID, download=whole))
        except BertprobeError as error:
            line = str(error)
    assert "sekret" not in line
    assert len(line) < 2000
    assert not model.leaks()
