"""The door that is shut while transformers works: nothing is asked for, whatever is tried, and it is handed back."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers.integrations.hub_kernels as hub_kernels
import trapped
import zoo
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import open_checkpoint
from bertprobe.transformers_model import Record, load_reference, tokenizer
from bertprobe.transformers_model.door import Shut, opened, shut


@pytest.fixture(params=["", "1"], ids=["online", "offline"])
def offline(request: pytest.FixtureRequest) -> str:
    """HF_HUB_OFFLINE: unset, or set."""
    return str(request.param)


def test_no_family_asks_for_anything(offline: str, tmp_path: Path) -> None:
    found = trapped.run("zoo", tmp_path, **({"HF_HUB_OFFLINE": offline} if offline else {}))
    assert [family for family, *_ in found["ran"]] == list(zoo.FAMILIES)
    assert all(rows > 0 and not nonfinite for _, rows, nonfinite in found["ran"])
    assert found["notes"] == []


def test_the_trap_notes_what_is_tried(tmp_path: Path) -> None:
    notes = trapped.run("trap", tmp_path)["notes"]
    assert [note.partition("(")[0] for note in notes] == [
        "socket.getaddrinfo",
        "socket.getaddrinfo",
        "kernels.get_kernel",
    ]


# ------------------------------------------------------------------------------------------------ what it stops


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where HF_HUB_OFFLINE is not set; nothing listens where the Hub is thought to be."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As where the package `kernels` is installed; what is asked of it."""
    asked: list[str] = []
    package = ModuleType("kernels")
    package.get_kernel = lambda name, **_: asked.append(name)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernels", package)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "get_kernel_hub", package.get_kernel, raising=False)
    return asked


def test_nothing_gets_through_a_shut_door(online: None, kernels: list[str]) -> None:
    with shut(models=True), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        assert constants.is_offline_mode()
        with pytest.raises(OfflineModeIsEnabled):
            HfApi(endpoint="http://127.0.0.1:9").model_info("some/repo")
        for ask in (
            lambda: socket.create_connection(("127.0.0.1", 9)),
            lambda: tcp.connect(("127.0.0.1", 9)),
            lambda: tcp.connect_ex(("127.0.0.1", 9)),
            lambda: udp.sendto(b"", ("127.0.0.1", 9)),
            lambda: socket.getaddrinfo("localhost", 80),
            lambda: socket.gethostbyname("localhost"),
            lambda: hub_kernels.get_kernel("kernels-community/mra", version=1),
            lambda: sys.modules["kernels"].get_kernel("kernels-community/flash-attn2"),
        ):
            with pytest.raises(Shut, match="bertprobe lets transformers use no"):
                ask()
        with opened():
            assert not constants.is_offline_mode()
            hub_kernels.get_kernel("mine/own")
        assert constants.is_offline_mode()
    assert kernels == ["mine/own"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has none")
def test_a_socket_within_the_machine_is_no_request(tmp_path: Path) -> None:
    place = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client, shut():
        server.bind(place)
        server.listen()
        client.connect(place)


def borrowed(*owners: Any) -> list[Any]:
    """All that stands under the names that the door borrows, and whether a class has it of its own."""
    names = ("connect", "connect_ex", "sendto", "getaddrinfo", "gethostbyname", "HF_HUB_OFFLINE", "get_kernel")
    return [(name in vars(owner), vars(owner).get(name)) for owner in owners for name in names]


def test_everything_is_handed_back(tmp_path: Path) -> None:
    owners = (socket, socket.socket, constants, hub_kernels)
    before = borrowed(*owners)
    zoo.save("bert", tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    reference = load_reference(checkpoint, find_parts(checkpoint))
    assert borrowed(*owners) == before

    def tap(record: Record) -> None:
        raise ValueError(record.part)

    with pytest.raises(ValueError, match=r"intermediate\.0"):
        reference.run([1, 2, 3], on_record=tap)
    with pytest.raises(Exception, match="no tokenizer"):
        tokenizer(checkpoint)
    with pytest.raises(KeyError), shut(), shut():
        raise KeyError
    assert borrowed(*owners) == before


def test_a_tap_is_the_callers_own_and_may_ask(online: None, tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    reference = load_reference(checkpoint, find_parts(checkpoint))
    seen: list[bool] = []
    reference.run([1, 2, 3], on_record=lambda record: seen.append(bool(constants.is_offline_mode())))
    assert seen == [False, False]


def test_other_threads_keep_their_network(online: None) -> None:
    """One thread shuts the door; others find it open, and the last to leave takes everything out."""
    before = borrowed(socket, socket.socket, constants)
    inside, leave = threading.Event(), threading.Event()
    found: list[bool] = []

    def work() -> None:
        with shut():
            inside.set()
            leave.wait(10)
            found.append(bool(constants.is_offline_mode()))

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(10)
    assert not constants.is_offline_mode()
    with pytest.raises(OSError, match=r"refused|unreachable|Cannot assign"):
        socket.create_connection(("127.0.0.1", 9), 1)
    with shut():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode(), "two do not open it for each other, nor keep it shut"
    leave.set()
    worker.join()
    assert found == [True]
    assert borrowed(socket, socket.socket, constants) == before


def test_what_somebody_else_has_put_there_meanwhile_stays() -> None:
    real = socket.getaddrinfo
    try:
        with shut():
            socket.getaddrinfo = mine = lambda *_, **__: []  # type: ignore[assignment]
        assert socket.getaddrinfo is mine
    finally:
        socket.getaddrinfo = real


@pytest.mark.parametrize("family", ["mra", "yoso"])
def test_kernels_that_a_modeling_file_fetches_are_not_fetched(
    family: str, kernels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is a GPU, and what builds its code: these two then fetch a kernel by themselves."""
    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=["_"])
    for name in ("is_torch_cuda_available", "is_ninja_available", "is_cuda_platform", "is_kernels_available"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, lambda: True)
    zoo.save(family, tmp_path / "plain")
    assert kernels, "without the door they do"
    kernels.clear()
    monkeypatch.setattr(module, "mra_cuda_kernel" if family == "mra" else "lsh_cumulation", None)
    checkpoint = open_checkpoint(str(tmp_path / "plain"))
    hidden = load_reference(checkpoint, find_parts(checkpoint)).run(list(range(10, 43))).last_hidden_state
    assert kernels == []
    assert bool(torch.isfinite(hidden).all())


def test_the_environment_is_left_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    zoo.save("bert", tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    load_reference(checkpoint, find_parts(checkpoint))
    assert dict(os.environ) == before
