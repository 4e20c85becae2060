"""Whatever a Hub or the environment says, there is one line, and nothing secret in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from hub import Hub
from safetensors.torch import save
from test_bad_input import refused
from test_hub import CONFIG, ID, STATE, WEIGHTS

from bertprobe.checkpoint.hub import client
from bertprobe.checkpoint.hub.endpoint import host_of, parse_endpoint, shown, without_secrets

STRETCH = 0.5  # seconds, in place of SLOW_AFTER's
API = "/api/models"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is waited for takes a fraction of a second."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", STRETCH)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


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
