"""The stand-in for the Hub, held against the clients that it stands in for: huggingface_hub and transformers."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import pytest
import torch
from hub import FAULTS, Fault, Hub
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

SMALL = b'{"hidden_size": 32}'
LARGE = bytes(range(256)) * 64
FILES: dict[str, bytes | Path] = {"config.json": SMALL, "model.safetensors": LARGE, "1_Pooling/config.json": b"{}"}
ID = "someone/tiny"


@dataclass(frozen=True)
class Got:
    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(url: str, method: str = "GET", **headers: str) -> Got:
    """One request, redirects not followed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        return Got(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read())
    finally:
        connection.close()


def at(hub: Hub, file: str, revision: str = "main") -> str:
    return f"{hub.endpoint}/{ID}/resolve/{revision}/{file}"


def signed(hub: Hub, file: str = "model.safetensors") -> str:
    return ask(at(hub, file)).headers["location"]


@pytest.fixture
def logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


# ------------------------------------------------------------------------------------------------ huggingface_hub


@pytest.mark.parametrize("repo_id", ["tiny", ID])
def test_model_info_tells_the_commit_and_the_sizes(repo_id: str, hub: Hub) -> None:
    commit = hub.add(repo_id, FILES)
    for revision in (None, "main", commit):
        info = huggingface_hub.model_info(repo_id, revision=revision, files_metadata=True)
        assert (info.id, info.sha, info.private, info.gated) == (repo_id, commit, False, False)
        assert {file.rfilename: file.size for file in info.siblings or []} == {k: len(v) for k, v in FILES.items()}
    weights = next(file for file in info.siblings or [] if file.rfilename == "model.safetensors")
    assert weights.lfs
    assert (weights.lfs.size, weights.lfs.sha256, weights.lfs.pointer_size) == (
        len(LARGE),
        hashlib.sha256(LARGE).hexdigest(),
        130,
    )
    assert all(file.size is None for file in huggingface_hub.model_info(repo_id).siblings or [])


@pytest.mark.parametrize("relative_redirect", [False, True])
@pytest.mark.parametrize("repo_id", ["tiny", ID])
def test_files_are_downloaded_and_found_in_the_cache(repo_id: str, relative_redirect: bool, logged_in: Hub) -> None:
    logged_in.relative_redirect = relative_redirect
    commit = logged_in.add(repo_id, FILES)
    for name, content in FILES.items():
        path = Path(hf_hub_download(repo_id, name))
        assert path.read_bytes() == content
        assert path.parts[-len(Path(name).parts) - 1] == commit
        assert try_to_load_from_cache(repo_id, name) == str(path)
    assert [r.method for r in logged_in.weights()] == ["HEAD", "GET"]
    assert [r.origin for r in logged_in.weights()] == ["hub", "storage"]
    assert sum(r.sent for r in logged_in.weights()) == len(LARGE)
    assert all("authorization" in r.headers for r in logged_in.requests if r.origin == "hub")
    assert (logged_in.leaks(), logged_in.unknown) == ([], [])


def test_a_snapshot_and_its_tree_in_pages(hub: Hub) -> None:
    hub.page_size = 2
    commit = hub.add(ID, FILES)
    folder = Path(snapshot_download(ID))
    assert folder.name == commit
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    tree = list(huggingface_hub.list_repo_tree(ID, recursive=True, expand=True))
    assert [entry.path for entry in tree] == ["1_Pooling", "1_Pooling/config.json", "config.json", "model.safetensors"]
    assert [e.path for e in huggingface_hub.list_repo_tree(ID)] == ["1_Pooling", "config.json", "model.safetensors"]
    assert [e.path for e in huggingface_hub.list_repo_tree(ID, "1_Pooling")] == ["1_Pooling/config.json"]
    with pytest.raises(RemoteEntryNotFoundError, match="2_Pooling"):
        list(huggingface_hub.list_repo_tree(ID, "2_Pooling"))
    assert huggingface_hub.list_repo_refs(ID).branches[0].target_commit == commit
    assert hub.unknown == []


def test_a_branch_moves_and_its_commits_stay(hub: Hub) -> None:
    first = hub.add(ID, {"config.json": b"1"})
    pull = hub.add(ID, {"config.json": b"2"}, branch="refs/pr/1")
    path = hf_hub_download(ID, "config.json")
    second = hub.add(ID, {"config.json": b"3"})
    third = hub.add(ID, {"config.json": b"1"})
    assert len({first, pull, second, third}) == 4
    assert Path(hf_hub_download(ID, "config.json")) == Path(path).parents[1] / third / "config.json"
    for revision, content in [(first, b"1"), ("refs/pr/1", b"2"), (pull, b"2"), (second, b"3"), ("main", b"1")]:
        assert Path(hf_hub_download(ID, "config.json", revision=revision)).read_bytes() == content
    assert huggingface_hub.model_info(ID, revision="refs/pr/1").sha == pull
    assert [c.commit_id for c in huggingface_hub.list_repo_commits(ID)] == [third, second, first]
    assert hub.add("other/same", FILES) == hub.add("other/same", FILES, branch="v1")


def test_what_was_downloaded_is_there_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(ID, FILES)
    folder = snapshot_download(ID)
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert snapshot_download(ID) == folder
    assert hf_hub_download(ID, "config.json") == f"{folder}/config.json"
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(ID, "other.json")
    assert len(hub.requests) == asked


def test_a_hub_that_is_down_and_comes_back(hub: Hub) -> None:
    hub.add(ID, FILES)
    path = hf_hub_download(ID, "config.json")
    endpoint = hub.endpoint
    hub.stop()
    assert hf_hub_download(ID, "config.json") == path
    hub.start()
    assert hub.endpoint == endpoint
    assert Path(hf_hub_download(ID, "model.safetensors")).read_bytes() == LARGE


def test_a_renamed_repository_is_found_under_its_old_name(hub: Hub) -> None:
    hub.add("google-bert/tiny", FILES)
    hub.rename("tiny", "google-bert/tiny")
    assert huggingface_hub.model_info("tiny", files_metadata=True).id == "google-bert/tiny"
    assert Path(hf_hub_download("tiny", "model.safetensors")).read_bytes() == LARGE
    assert Path(hf_hub_download("tiny", "1_Pooling/config.json")).read_bytes() == b"{}"
    assert len(hub.weights()) == 3


def test_an_interrupted_download_is_resumed_by_range(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # it resumes at whole chunks, of 10 MiB elsewhere
    hub.add(ID, FILES)
    hub.misbehave("cut", after=1000, times=1, origin="storage")
    assert Path(hf_hub_download(ID, "model.safetensors")).read_bytes() == LARGE
    assert [(r.status, r.sent) for r in hub.weights()] == [(302, 0), (200, 1000), (206, len(LARGE) - 1000)]


def test_a_subprocess_sees_the_same_hub(hub: Hub) -> None:
    hub.add(ID, FILES)
    code = f"import huggingface_hub as h; print(h.snapshot_download({ID!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=hub.environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == snapshot_download(ID)
    assert done.stderr == ""
    assert hub.unknown == []


# ------------------------------------------------------------------------------------------------ who may see what


def test_what_is_not_there(hub: Hub) -> None:
    commit = hub.add(ID, FILES)
    api = HfApi()
    for missing in ("someone/other", "other"):
        for attempt in (api.model_info, snapshot_download, lambda i: hf_hub_download(i, "config.json")):
            with pytest.raises(RepositoryNotFoundError, match="Invalid username or password") as absent:
                attempt(missing)
            assert absent.value.response.status_code == 401
    with pytest.raises(RepositoryNotFoundError, match="404"):
        api.model_info("someone/other", token=hub.token)
    for attempt in (api.model_info, snapshot_download, lambda i, revision: hf_hub_download(i, "x", revision=revision)):
        with pytest.raises(RevisionNotFoundError, match="Invalid rev id: v9"):
            attempt(ID, revision="v9")
    with pytest.raises(RemoteEntryNotFoundError, match="Entry Not Found"):
        hf_hub_download(ID, "pytorch_model.bin")
    assert try_to_load_from_cache(ID, "pytorch_model.bin", revision=commit) is huggingface_hub._CACHED_NO_EXIST
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as wrong:
        api.model_info(ID, token="hf_wrong")
    assert wrong.value.response.status_code == 401


def test_a_private_repository_shows_itself_to_its_owner(hub: Hub) -> None:
    hub.add(ID, FILES, private=True)
    for token, status in [(False, 401), (hub.stranger, 404)]:
        for attempt in (huggingface_hub.model_info, snapshot_download):
            with pytest.raises(RepositoryNotFoundError) as refused:
                attempt(ID, token=token)
            assert refused.value.response.status_code == status
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(ID, "config.json", token=token)
    assert huggingface_hub.model_info(ID, token=hub.token).private
    assert Path(hf_hub_download(ID, "model.safetensors", token=hub.token)).read_bytes() == LARGE
    assert hub.leaks() == []


def test_a_gated_repository_lists_its_files_and_keeps_them(hub: Hub) -> None:
    hub.add(ID, FILES, gated=True)
    for token, status in [(False, 401), (hub.stranger, 403)]:
        info = huggingface_hub.model_info(ID, token=token, files_metadata=True)
        assert (info.gated, len(info.siblings or [])) == ("auto", 3)
        for attempt in (
            lambda t: hf_hub_download(ID, "config.json", token=t),
            lambda t: snapshot_download(ID, token=t),
        ):
            with pytest.raises(GatedRepoError, match="is restricted") as refused:
                attempt(token)
            assert refused.value.response.status_code == status
    assert Path(hf_hub_download(ID, "config.json", token=hub.token)).read_bytes() == SMALL


def test_a_disabled_repository_is_refused(hub: Hub) -> None:
    hub.add(ID, FILES, disabled=True)
    with pytest.raises(DisabledRepoError):
        huggingface_hub.model_info(ID)


# ------------------------------------------------------------------------------------------------ transformers


@pytest.fixture(scope="module")
def with_tokenizer(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | Path]:
    """The tiny BERT's files, with those of a tokenizer."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "day"]
    BertTokenizer(vocab={word: at for at, word in enumerate(words)}).save_pretrained(folder)
    return {path.name: path for path in [*tiny_bert.iterdir(), *folder.iterdir()]}


@pytest.mark.parametrize("relative_redirect", [False, True])
def test_transformers_loads_from_it(
    relative_redirect: bool, with_tokenizer: dict[str, bytes | Path], tiny_bert: Path, hub: Hub
) -> None:
    from transformers import AutoConfig, AutoTokenizer, BertModel

    hub.relative_redirect = relative_redirect
    hub.add(ID, with_tokenizer)
    assert AutoConfig.from_pretrained(ID).to_dict()["hidden_size"] == 32
    assert AutoTokenizer.from_pretrained(ID)("good day")["input_ids"] == [2, 5, 6, 3]
    ours, theirs = BertModel.from_pretrained(ID).state_dict(), BertModel.from_pretrained(tiny_bert).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert hub.unknown == []
    assert [r.status for r in hub.weights()] == [302, 200]


# ------------------------------------------------------------------------------------------------ ranges and signatures


@pytest.mark.parametrize("where", ["hub", "storage"])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-7", slice(0, 8)),
        ("bytes=5-5", slice(5, 6)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-4", slice(-4, None)),
        ("bytes=-99999", slice(None)),
        ("bytes=3-99999", slice(3, None)),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(asked: str, expected: slice, where: str, hub: Hub) -> None:
    hub.add(ID, FILES)
    url, content = (at(hub, "config.json"), SMALL) if where == "hub" else (signed(hub), LARGE)
    start, stop, _ = expected.indices(len(content))
    for method in ("GET", "HEAD"):
        got = ask(url, method, Range=asked)
        assert (got.status, got.headers["content-range"]) == (206, f"bytes {start}-{stop - 1}/{len(content)}")
        assert got.headers["content-length"] == str(stop - start)
        assert got.headers["accept-ranges"] == "bytes"
        assert got.body == (content[expected] if method == "GET" else b"")


@pytest.mark.parametrize("where", ["hub", "storage"])
def test_ranges_that_are_none(where: str, hub: Hub) -> None:
    hub.add(ID, FILES)
    url, content = (at(hub, "config.json"), SMALL) if where == "hub" else (signed(hub), LARGE)
    whole = ask(url)
    assert (whole.status, whole.body, "content-range" in whole.headers) == (200, content, False)
    for nonsense in ("bytes=0-1,5-6", "bytes=9-2", "bytes=-", "lines=1-2"):
        assert ask(url, Range=nonsense).body == content
    assert ask(url, **{"Range": "bytes=0-1", "If-Range": '"other"'}).status == 200
    assert ask(url, **{"Range": "bytes=0-1", "If-Range": whole.headers["etag"]}).status == 206
    for outside in (f"bytes={len(content)}-", "bytes=99999-999999", "bytes=-0"):
        got = ask(url, Range=outside)
        assert (got.status, got.headers["content-range"]) == (416, f"bytes */{len(content)}")


def test_headers_of_a_file_and_of_a_redirect(hub: Hub) -> None:
    commit = hub.add(ID, FILES)
    small, large = ask(at(hub, "config.json"), "HEAD"), ask(at(hub, "model.safetensors"), "HEAD")
    git = subprocess.run(["git", "hash-object", "--stdin"], input=SMALL, capture_output=True, check=True).stdout
    assert (small.status, small.headers["x-repo-commit"], small.headers["etag"]) == (
        200,
        commit,
        f'"{git.decode().strip()}"',
    )
    assert (small.headers["content-length"], small.headers["accept-ranges"]) == (str(len(SMALL)), "bytes")
    assert (large.status, large.headers["x-repo-commit"]) == (302, commit)
    assert (large.headers["x-linked-size"], large.headers["x-linked-etag"]) == (
        str(len(LARGE)),
        f'"{hashlib.sha256(LARGE).hexdigest()}"',
    )
    assert large.headers["location"].startswith(f"{hub.storage}/blob/{hashlib.sha256(LARGE).hexdigest()}?Expires=")
    assert ask(large.headers["location"]).headers["etag"] != large.headers["x-linked-etag"]


def test_a_signature_that_is_forged_or_expired(hub: Hub) -> None:
    hub.add(ID, FILES)
    url = signed(hub)
    for forged in (url.replace("Expires=", "Expires=1"), url[:-1] + "x", url.partition("?")[0]):
        got = ask(forged)
        assert (got.status, got.headers["content-type"]) == (403, "application/xml")
        assert b"<Code>SignatureDoesNotMatch</Code>" in got.body
    hub.lifetime = -1
    assert b"Request has expired" in ask(signed(hub)).body


def test_a_token_at_the_storage_is_noticed(hub: Hub) -> None:
    hub.add(ID, FILES)
    ask(signed(hub), Authorization="Bearer hf_right")
    assert [r.origin for r in hub.leaks()] == ["storage"]


def test_what_is_no_route_is_noted(hub: Hub) -> None:
    assert ask(f"{hub.endpoint}/api/nothing").status == 404
    assert ask(f"{hub.endpoint}/api/telemetry", "POST").status == 404
    assert hub.unknown == ["GET /api/nothing", "POST /api/telemetry"]


# ------------------------------------------------------------------------------------------------ faults

ORIGINS = pytest.mark.parametrize("where", ["hub", "storage"])
ASKED = "bytes=4-11"


def either(hub: Hub, where: str) -> tuple[str, bytes]:
    """A file at that origin, asked for without a redirect, and its content."""
    hub.add(ID, FILES)
    return (at(hub, "config.json"), SMALL) if where == "hub" else (signed(hub), LARGE)


@ORIGINS
def test_faults_of_a_range(where: str, hub: Hub) -> None:
    url, content = either(hub, where)
    size, part, told = len(content), content[4:12], f"bytes 4-11/{len(content)}"
    for how, settings, status, content_range, body in [
        ("ignore_range", {}, 200, None, content),
        ("short", {"by": 3}, 206, told, part[:-3]),
        ("long", {"by": 3}, 206, told, content[4:15]),
        ("wrong_range", {"shift": 2}, 206, f"bytes 6-13/{size}", content[6:14]),
        ("wrong_range", {"shift": -3}, 206, f"bytes 1-8/{size}", content[1:9]),
        ("no_content_range", {}, 206, None, part),
        ("wrong_total", {}, 206, f"bytes 4-11/{size + 1}", part),
        ("wrong_total", {"total": "*"}, 206, "bytes 4-11/*", part),
    ]:
        hub.behave()
        hub.misbehave(how, **settings)
        got = ask(url, Range=ASKED)
        assert (got.status, got.headers.get("content-range"), got.body) == (status, content_range, body), how
        assert got.headers["content-length"] == str(len(body)), how
        assert hub.requests[-1].sent == len(body)


@ORIGINS
def test_faults_of_a_body(where: str, hub: Hub) -> None:
    url, content = either(hub, where)
    hub.misbehave("gzip")
    got = ask(url, Range=ASKED)
    assert (got.headers["content-encoding"], gzip.decompress(got.body)) == ("gzip", content[4:12])
    hub.behave()
    hub.misbehave("gzip", polite=True)
    assert ask(url).body == content
    assert gzip.decompress(ask(url, **{"Accept-Encoding": "gzip, br"}).body) == content
    hub.behave()
    hub.misbehave("multipart")
    got = ask(url, Range=ASKED)
    assert got.headers["content-type"] == "multipart/byteranges; boundary=seam"
    assert got.body.split(b"\r\n\r\n", 1)[1] == content[4:12] + b"\r\n--seam--\r\n"
    hub.behave()
    hub.misbehave("long", by=2)
    assert ask(url).body == content + b"\0\0"
    hub.behave()
    hub.misbehave("trickle", chunk=2, pause=0.02)
    began = time.monotonic()
    assert ask(url, Range=ASKED).body == content[4:12]
    assert time.monotonic() - began >= 0.06


@ORIGINS
def test_faults_of_a_connection(where: str, hub: Hub) -> None:
    url, content = either(hub, where)
    hub.misbehave("cut", after=5)
    with pytest.raises(http.client.IncompleteRead) as partial:
        ask(url)
    assert (partial.value.partial, hub.requests[-1].sent) == (content[:5], 5)
    hub.behave()
    hub.misbehave("reset")
    with pytest.raises(ConnectionResetError):
        ask(url)
    hub.behave()
    hub.misbehave("reset", orderly=True)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(url)
    assert hub.requests[-1].status == 0
    hub.behave()
    hub.misbehave("hang", seconds=0.1)
    began = time.monotonic()
    assert ask(url).body == content
    assert time.monotonic() - began >= 0.1
    hub.behave()
    hub.misbehave("trickle_head", pause=0.001)
    began = time.monotonic()
    assert ask(url).body == content
    assert time.monotonic() - began >= 0.1
    hub.behave()
    hub.misbehave("status", code=404)
    hub.misbehave("trickle", pause=0.01, errors=True)
    began = time.monotonic()
    assert b"out of order" in ask(url).body
    assert time.monotonic() - began >= 0.1
    hub.behave()
    hub.misbehave("raw", instead=lambda right: [right.replace(b"200 OK", b"200 Fine"), b" and more"])
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("GET", f"{urlsplit(url).path}?{urlsplit(url).query}")
    answer = connection.getresponse()
    assert (answer.reason, answer.read()) == ("Fine", content)
    connection.close()


@ORIGINS
def test_faults_that_answer_something_else(where: str, hub: Hub) -> None:
    url, _ = either(hub, where)
    date = formatdate(usegmt=True)
    for code, after in [(429, 7), (503, date), (408, None), (500, None)]:
        hub.behave()
        hub.misbehave("status", code=code, retry_after=after)
        got = ask(url)
        assert (got.status, got.headers.get("retry-after")) == (code, None if after is None else str(after))
    hub.behave()
    hub.misbehave("html")
    got = ask(url)
    assert (got.status, got.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "x-repo-commit" not in got.headers
    hub.behave()
    hub.misbehave("redirect_loop")
    got = ask(url)
    assert got.status == 302
    assert url.endswith(got.headers["location"].removesuffix("?"))
    hub.behave()
    hub.misbehave("foreign_redirect", location="http://127.0.0.1:9/elsewhere")
    got = ask(url)
    assert (got.status, got.headers["location"]) == (302, "http://127.0.0.1:9/elsewhere")
    hub.behave()
    hub.misbehave("etag")
    assert ask(url).headers["etag"] == f'"{"e" * 64}"'
    assert ask(url, **{"Range": "bytes=0-1", "If-Range": '"other"'}).status == 200


def test_faults_of_the_hub_alone(hub: Hub) -> None:
    commit = hub.add(ID, FILES)
    hub.misbehave("etag", value="new")
    hub.misbehave("commit")
    hub.misbehave("no_sizes")
    for file, header in [("config.json", "etag"), ("model.safetensors", "x-linked-etag")]:
        got = ask(at(hub, file), "HEAD")
        assert (got.headers["x-repo-commit"], got.headers[header]) == ("c" * 40, '"new"')
    info = huggingface_hub.model_info(ID, files_metadata=True)
    assert info.sha == commit
    assert [(f.rfilename, f.size, f.lfs) for f in info.siblings or []] == [(name, None, None) for name in sorted(FILES)]


def test_urls_that_were_given_out_expire(hub: Hub) -> None:
    hub.add(ID, FILES)
    old = signed(hub)
    hub.misbehave("expire")
    assert (ask(old).status, ask(signed(hub)).status, ask(old).status) == (403, 200, 403)
    hub.misbehave("expire", forever=True)
    assert ask(signed(hub)).status == 403
    hub.behave()
    assert ask(signed(hub)).status == 200
    old = signed(hub)
    hub.misbehave("expire", times=1)
    assert [ask(old).status for _ in range(2)] == [403, 200]


def test_a_fault_meets_the_requests_it_is_meant_for(hub: Hub) -> None:
    url, _ = either(hub, "storage")
    hub.misbehave("status", times=2, skip=1, match=".safetensors")
    assert ask(at(hub, "config.json")).status == 200
    assert [ask(url).status for _ in range(4)] == [200, 503, 503, 200]
    hub.behave()
    hub.misbehave(Fault("ignore_range", times=1))
    assert ask(url).status == 200  # had no range to ignore, so the fault is still to come
    assert [ask(url, Range=ASKED).status for _ in range(2)] == [200, 206]
    hub.misbehave("status", code=500, origin="hub")
    assert (ask(url).status, ask(at(hub, "config.json")).status) == (200, 500)


def test_a_fault_or_setting_that_does_not_exist_is_an_error(hub: Hub) -> None:
    with pytest.raises(KeyError):
        hub.misbehave("explode")
    with pytest.raises(TypeError):
        hub.misbehave("cut", before=3)
    with pytest.raises(TypeError):
        hub.misbehave("foreign_redirect")
    assert len(FAULTS) == 22


# ------------------------------------------------------------------------------------------------ the server


def test_a_connection_is_kept_and_requests_are_noted(hub: Hub) -> None:
    hub.add(ID, FILES)
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=10)
    for _ in range(2):
        connection.request("GET", f"/{ID}/resolve/main/config.json?download=true", headers={"X-Some": "Thing"})
        assert connection.getresponse().read() == SMALL
        assert connection.sock is not None
    connection.request("POST", "/api/nothing", body=b"x" * 1000)
    assert json.loads(connection.getresponse().read())["error"]
    connection.close()
    first, second, third = hub.requests
    assert (first.origin, first.method, first.path) == ("hub", "GET", f"/{ID}/resolve/main/config.json")
    assert (first.query, first.headers["x-some"], first.file) == ("download=true", "Thing", "config.json")
    assert (first.status, first.sent, second.sent, third.status) == (200, len(SMALL), len(SMALL), 404)
    hub.requests.clear()
    hub.latency = 0.05
    began = time.monotonic()
    assert ask(at(hub, "config.json")).status == 200
    assert time.monotonic() - began >= 0.05
    assert len(hub.requests) == 1


def test_a_file_is_served_from_disk_and_hashed_once(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(LARGE * 64)
    hub.add(ID, {"pytorch_model.bin": path})
    assert ask(signed(hub, "pytorch_model.bin"), Range="bytes=1000000-1000099").body == (LARGE * 64)[1000000:1000100]
    from hub import _hashes_of_file

    before = _hashes_of_file.cache_info().misses
    hub.add("other/one", {"pytorch_model.bin": path})
    assert _hashes_of_file.cache_info().misses == before
    path.write_bytes(LARGE)
    hub.add(ID, {"pytorch_model.bin": path})
    assert ask(signed(hub, "pytorch_model.bin")).body == LARGE


def soon(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("not within 5 s")


def test_it_stops_at_once_and_leaves_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    with Hub() as hub:
        hub.add(ID, {"model.safetensors": bytes(30_000_000)})
        url = signed(hub)
        hub.misbehave("hang", match="hangs")
        hub.misbehave("trickle", pause=30, match="/blob/")
        waiting = [http.client.HTTPConnection(urlsplit(u).netloc, timeout=10) for u in (hub.endpoint, url, url, url)]
        waiting[0].request("GET", "/hangs")
        waiting[1].request("GET", url.removeprefix(hub.storage))
        waiting[2].connect()
        soon(lambda: len(hub.requests) == 3)
        hub.behave()
        busy = threads + 2 + 3  # a thread an origin, and a connection
        soon(lambda: threading.active_count() == busy)
        waiting[3].request("GET", url.removeprefix(hub.storage))  # and hangs up in the middle of the body
        waiting[3].getresponse().read(10)
        waiting[3].close()
        soon(lambda: threading.active_count() == busy)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert threading.active_count() == threads
    for connection in waiting:
        connection.close()
    assert capfd.readouterr() == ("", "")


def test_a_bug_of_the_stand_in_does_not_pass_unseen() -> None:
    hub = Hub().start()
    hub.add(ID, FILES)
    hub._blobs.clear()
    with pytest.raises(http.client.RemoteDisconnected):
        ask(signed(hub))
    with pytest.raises(KeyError):
        hub.stop()
