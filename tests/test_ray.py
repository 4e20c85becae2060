"""A run whose shards actors of Ray compute, on a cluster of several nodes in this machine, and losses of them."""

from __future__ import annotations

import gc
import gzip
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from safetensors.numpy import load_file, save_file

import bertprobe
from bertprobe import errors
from bertprobe.corpus import Shard, open_corpus
from bertprobe.errors import BadSetting, BertprobeError, CorruptFile, OutputError, UnsupportedFile
from bertprobe.export.files import RunFolder, marked
from bertprobe.extract import Job, Options, Wish, prepare
from bertprobe.neurons import Kept
from bertprobe.neurons.job import ScanJob, prepare_scan
from bertprobe.neurons.opening import Options as ScanOptions
from bertprobe.run import Compute
from bertprobe.sharded import WHOLE, Actors, Part, on_ray
from bertprobe.sharded.elsewhere import Task, placed

pytestmark = pytest.mark.filterwarnings(  # files that Ray leaves to be closed
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

WORDS = ["the", "ship", "left", "harbour", "and", "he", "was", "paid", "a", "shilling", "she", "walked", "on"]
LIGHT = Compute(backend="numpy", threads=1)  # actors that need not load torch begin sooner
BOTH = Wish(("pooler", "intermediate"), neurons="1:3-40")
Advance = Callable[[int, int], None]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files, of which one is cut at line ends and one read through from its beginning."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(5)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 40))) for _ in range(90)]
    (folder / "one.txt").write_text("\n".join(texts[:60]) + "\n")
    rows = [json.dumps({"text": text}) for text in texts[60:]]
    with gzip.open(folder / "two.jsonl.gz", "wt") as file:
        file.write("\n".join([*rows[:10], "no JSON", *rows[10:]]) + "\n")
    return [folder / "one.txt", folder / "two.jsonl.gz"]


def extraction(
    corpus: list[Path],
    place: Path | str,
    compute: Compute = LIGHT,
    model: str = "pocket",
    wish: Wish = BOTH,
    **options: Any,
) -> Job:
    opened = bertprobe.open(model)
    settings = Options(**{"compute": compute, "shard_text": 700, "verify": False, **options})
    return prepare(opened.checkpoint, opened.anatomy, open_corpus(corpus, skip_bad=True), place, wish, settings)


def scanning(corpus: list[Path], place: Path, compute: Compute = LIGHT, **options: Any) -> ScanJob:
    model = bertprobe.open("pocket")
    settings = ScanOptions(Kept(top=4, drawn=20), shard_text=700, verify=False, compute=compute, **options)
    return prepare_scan(model.checkpoint, model.anatomy, open_corpus(corpus, skip_bad=True), place, settings)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def extracted(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("extracted") / "out"
    extraction(corpus, place).run()
    return place


@pytest.fixture(scope="module")
def scanned(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scanned") / "out"
    scanning(corpus, place).run()
    return place


# ------------------------------------------------------------------------------------------------ of its own, or none


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9", "ray://127.0.0.1:9"])
def test_where_no_cluster_is_it_is_said(address: str, tmp_path: Path) -> None:
    """In a process of its own, and before there is one."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'bertprobe[ray]'")
    if running("gcs_server"):
        pytest.skip("there is a cluster of Ray on this machine")
    (tmp_path / "t.txt").write_text("the ship\n")
    words = ["extract", "t.txt", "-o", "o", "--no-verify", "--quiet", "--ray", address]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "bertprobe", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"bertprobe: there is no cluster of Ray at {address} (")
    assert done.stderr.endswith("or have one here: --ray local\n")
    assert done.stderr.count("\n") == 1


def running(words: str) -> list[str]:
    """The command lines of processes with these words in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().decode(errors="replace")
            if words in line:
                found.append(line)
    return found


def test_a_cluster_of_its_own_ends_with_the_command(corpus: list[Path], extracted: Path, tmp_path: Path) -> None:
    """Ctrl-C ends it, too; the same command goes on, and stdout has the report alone."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'bertprobe[ray]'")
    place = tmp_path / "out"
    words = [sys.executable, "-m", "bertprobe", "extract", *map(str, corpus), "-o", str(place), "--ray", "local"]
    words += ["--part", "pooler", "--part", "intermediate", "--neurons", "1:3-40", "--skip-bad", "--no-verify"]
    words += ["--shard-text", "700", "--backend", "numpy", "--actors", "2", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        until = time.monotonic() + 120
        while not list(place.glob("shard-*.safetensors")) and first.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        first.send_signal(signal.SIGINT)
        out, _ = first.communicate(timeout=60)
    assert out == ""
    assert first.returncode != 0
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout), "the report, and nothing beside it"
    assert bytes_in(place) == bytes_in(extracted)
    assert all("bertprobe: " in line for line in done.stderr.splitlines()), done.stderr
    assert running(str(place)) == []


# ------------------------------------------------------------------------------------------------ the cluster


class Nodes:
    """A cluster of a head, which computes nothing, and three nodes of a processor each."""

    def __init__(self, ray: Any) -> None:
        from ray.cluster_utils import Cluster

        self._store = {"object_store_memory": 80 * 2**20}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **self._store}
        )
        self.nodes: list[Any] = []
        for _ in range(3):
            self.add()
        self.address = self._cluster.address
        ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")

    def add(self) -> None:
        self.nodes.append(self._cluster.add_node(num_cpus=1, **self._store))

    def remove(self, node: Any) -> None:
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def of(self, pid: int) -> Any:
        """The node that an actor's process runs on."""
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return next(node for node in self.nodes if parent in [kept.process.pid for kept in raylets(node)])

    def end(self) -> None:
        self._cluster.shutdown()


def raylets(node: Any) -> list[Any]:
    return list(node.all_processes["raylet"])


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if not sys.platform.startswith("linux"):
        pytest.skip("nodes are killed by what /proc tells")
    on_ray_module = pytest.importorskip("ray", reason="ray is not installed: pip install 'bertprobe[ray]'")
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # what is told to actors here no actor can import
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    running = Nodes(on_ray_module)
    yield running
    on_ray_module.shutdown()
    running.end()
    with warnings.catch_warnings(action="ignore"):
        gc.collect()
    for number, handler in handlers.items():
        signal.signal(number, handler)


ACTORS = Actors("auto", 3)


@dataclass(frozen=True)
class Noted:
    """A task that notes in a folder which process began which shard, and takes its time."""

    task: Task
    log: Path
    seconds: float = 0.0

    def open(self) -> Callable[[Shard, int], Any]:
        compute = self.task.open()

        def noted(shard: Shard, first: int) -> Any:
            (self.log / f"{shard.number}.{os.getpid()}.{time.time_ns()}").touch()
            time.sleep(self.seconds)
            return compute(shard, first)

        return noted


class Log:
    """What actors noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @property
    def began(self) -> list[tuple[int, int]]:
        """Shard and process, as they began."""
        found = [path.name.split(".") for path in self.folder.iterdir()]
        return [(int(shard), int(pid)) for shard, pid, _ in sorted(found, key=lambda words: int(words[2]))]

    @property
    def again(self) -> list[int]:
        """Shards that were computed more than once."""
        return [shard for shard, count in Counter(shard for shard, _ in self.began).items() if count > 1]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """Has actors note what they compute, a quarter of a second a shard at least."""
    noted, real = Log(tmp_path / "log"), on_ray.computed

    def computed(actors: Actors, task: Task, *others: Any, **named: Any) -> Any:
        return real(actors, Noted(task, noted.folder, 0.25), *others, **named)

    monkeypatch.setattr(on_ray, "computed", computed)
    return noted


def once(act: Callable[[], None], after: int = 1) -> Advance:
    """Called with each shard that is done: acts after so many of them."""
    done: list[int] = []

    def advance(texts: int, tokens: int) -> None:
        done.append(texts)
        if len(done) == after:
            act()

    return advance


def at_work(log: Log) -> int:
    """A process that has begun a shard just now."""
    before, until = len(log.began), time.monotonic() + 60
    while len(log.began) == before and time.monotonic() < until:
        time.sleep(0.002)
    return log.began[-1][1]


# ------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("count", [1, 3])
def test_actors_extract_the_same_bytes(
    count: int, nodes: Nodes, corpus: list[Path], extracted: Path, tmp_path: Path
) -> None:
    told: Counter[str] = Counter()

    def advance(texts: int, tokens: int) -> None:
        told.update(texts=texts, tokens=tokens)

    job = extraction(corpus, tmp_path / "out", actors=replace(ACTORS, count=count))
    assert len(job.shards) > 8
    job.run(advance)
    assert bytes_in(tmp_path / "out") == bytes_in(extracted)
    manifest = json.loads((extracted / "manifest.json").read_text())
    assert told == {"texts": 90, "tokens": manifest["tokens"]}
    assert manifest["complete"]
    assert not extraction(corpus, tmp_path / "out").left


def test_actors_write_where_fsspec_reaches(nodes: Nodes, corpus: list[Path], extracted: Path, tmp_path: Path) -> None:
    extraction(corpus, f"file://{tmp_path}/far/out", actors=ACTORS).run()
    assert bytes_in(tmp_path / "far" / "out") == bytes_in(extracted)


def test_actors_scan_the_same_bytes(nodes: Nodes, corpus: list[Path], scanned: Path, tmp_path: Path) -> None:
    scanning(corpus, tmp_path / "out", actors=ACTORS).run()
    assert bytes_in(tmp_path / "out") == bytes_in(scanned)


def test_by_torch_a_vector_of_the_recipe_and_a_part_of_the_plan(
    nodes: Nodes, corpus: list[Path], minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """By the command, with paths that are not absolute, which stand for others where actors are."""
    (tmp_path / "model").symlink_to(minilm)
    shutil.copy(corpus[0], tmp_path / "texts.txt")
    monkeypatch.chdir(tmp_path)
    words = ["extract", "texts.txt", "-m", "model", "--vector", "sentence", "--prompt", "the ", "--shard", "2/3"]
    words += ["--shard-text", "1500", "--no-verify"]
    alone = run([*words, "-o", "alone", "--threads", "1", "--quiet"])
    ran = run([*words, "-o", "by-actors", "--ray", "auto", "--actors", "2"])
    assert (alone.code, ran.code) == (0, 0)
    assert bytes_in(Path("alone")) == bytes_in(Path("by-actors"))
    assert ran.out.replace("by-actors", "alone") == alone.out, "stdout is the report alone"
    assert json.loads(Path("alone/manifest.json").read_text())["compute"]["threads"] == 1


# ------------------------------------------------------------------------------------------------ losses


def test_an_actor_that_is_killed_costs_its_shard(
    nodes: Nodes, corpus: list[Path], extracted: Path, tmp_path: Path, log: Log
) -> None:
    job = extraction(corpus, tmp_path / "out", actors=ACTORS)
    (tmp_path / "out").mkdir()
    left = tmp_path / "out" / f"shard-00002.safetensors{marked()}.part"

    def kill() -> None:
        os.kill(at_work(log), signal.SIGKILL)
        left.touch()

    job.run(once(kill, after=3))
    assert bytes_in(tmp_path / "out") == bytes_in(extracted), "what it had begun to write is gone, too"
    assert len(log.again) == 1
    assert len(log.began) == len(job.shards) + 1


def test_a_node_that_is_lost_costs_a_shard_and_one_that_comes_is_used(
    nodes: Nodes, corpus: list[Path], scanned: Path, tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    job = scanning(corpus, tmp_path / "out", actors=ACTORS)

    def exchange() -> None:
        nodes.remove(nodes.of(at_work(log)))
        nodes.add()

    job.run(once(exchange, after=3))
    assert bytes_in(tmp_path / "out") == bytes_in(scanned)
    assert len(log.again) == 1, "the others go on meanwhile"
    assert len(log.began) == len(job.shards) + 1
    assert capsys.readouterr().out == ""


def test_what_ends_every_actor_ends_the_run(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setattr(on_ray, "LOSSES", 3)
    with pytest.raises(BertprobeError, match=r"shard 4 ended 3 actors \(.*\); look at the log"):
        list(on_ray.computed(ACTORS, Toy(ends_at=4), shards(8), 1))
    assert told == ["an actor was lost: shard 4 is computed again"] * 2


def lacking() -> None:
    raise ModuleNotFoundError("No module named 'bertprobe'")


class Unknown:
    """A task that no actor can make anything of."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return lacking, ()


def test_where_nothing_can_begin_it_is_said_at_once(nodes: Nodes) -> None:
    start = time.monotonic()
    with pytest.raises(BertprobeError, match=r"an actor cannot begin \(.*No module named 'bertprobe'\); have this ver"):
        list(on_ray.computed(ACTORS, Unknown(), shards(2), 1))
    assert time.monotonic() - start < 60


@dataclass(frozen=True)
class Ending:
    """A task whose process ends where it is opened, the first time or always."""

    log: Path
    always: bool

    def open(self) -> Callable[[Shard, int], Any]:
        before = len(list(self.log.iterdir()))
        (self.log / str(os.getpid())).touch()
        if self.always or not before:
            os._exit(1)
        return lambda shard, first: first


@pytest.mark.parametrize("always", [False, True])
def test_an_actor_that_does_not_begin_is_tried_again_for_a_while(
    always: bool, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "PAUSE", 0.1)
    monkeypatch.setattr(on_ray, "GIVING_UP", 3.0 if always else 120.0)
    results = on_ray.computed(replace(ACTORS, count=1), Ending(tmp_path, always), shards(2), 1)
    if always:
        with pytest.raises(BertprobeError, match="an actor cannot begin"):
            list(results)
    else:
        assert sorted(found for _, found in results) == [0, 10]
    assert len(list(tmp_path.iterdir())) >= 2


@dataclass(frozen=True)
class Toy:
    """A task whose first shard is done once three others have begun; at one of them the process ends, or fails."""

    ends_at: int = -1
    fails_at: int = -1
    log: Path | None = None

    def open(self) -> Callable[[Shard, int], Any]:
        def compute(shard: Shard, first: int) -> Any:
            if self.log is not None:
                (self.log / f"{shard.number}.{os.getpid()}.{time.time_ns()}").touch()
            if shard.number == self.ends_at:
                os._exit(1)
            if shard.number == self.fails_at:
                raise ZeroDivisionError("a bug")
            until = time.monotonic() + 60
            while self.log and shard.number == 0 and len(list(self.log.iterdir())) < 4 and time.monotonic() < until:
                time.sleep(0.01)
            return shard.number, first

        return compute


def shards(count: int) -> list[tuple[Shard, int]]:
    return [(Shard(number, 0, "rows", number, number + 1, number, 1), 10 * number) for number in range(count)]


@pytest.fixture
def told() -> Iterator[list[str]]:
    from bertprobe.notices import told

    said: list[str] = []
    with told(said.append):
        yield said


def test_in_order_some_are_done_ahead_but_not_all(nodes: Nodes, tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    two = replace(ACTORS, count=2)
    results = on_ray.computed(two, Toy(log=log.folder), shards(40), 1, ordered=True)
    first = next(results)
    ahead = [shard for shard, _ in log.began]
    assert (first[0].number, first[1]) == (0, (0, 0))
    assert 4 <= len(ahead) <= 2 * on_ray.AHEAD + 2
    assert [found for _, found in results] == [(number, 10 * number) for number in range(1, 40)]


def test_as_they_are_done_nothing_waits(nodes: Nodes, tmp_path: Path) -> None:
    found = [result[0] for _, result in on_ray.computed(replace(ACTORS, count=2), Toy(log=tmp_path), shards(20), 1)]
    assert sorted(found) == list(range(20))
    assert found[0] != 0


def test_a_bug_keeps_its_traceback(nodes: Nodes) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(on_ray.computed(ACTORS, Toy(fails_at=3), shards(8), 1))


# ------------------------------------------------------------------------------------------------ errors of ours


def test_a_bad_row_ends_the_run_with_its_line(nodes: Nodes, corpus: list[Path], tmp_path: Path, log: Log) -> None:
    model = bertprobe.open("pocket")
    settings = Options(LIGHT, shard_text=700, verify=False, actors=ACTORS)
    job = prepare(model.checkpoint, model.anatomy, open_corpus(corpus, skip_bad=True), tmp_path / "o", BOTH, settings)
    strict = replace(job, work=replace(job.work, corpus=replace(job.work.corpus, skip_bad=False)))
    job.manifest["corpus"]["skip_bad"] = False
    with pytest.raises(CorruptFile, match=r"two\.jsonl\.gz: row 10 \(the first is 0\) is not JSON.*; mend it"):
        strict.run()
    assert log.again == []


def test_a_text_that_is_too_long_is_named(nodes: Nodes, tmp_path: Path, run: Run, corpus: list[Path]) -> None:
    (tmp_path / "long.txt").write_text("the ship\n" * 40 + "ship " * 2000 + "\n")
    ran = run(["neurons", "scan", tmp_path / "long.txt", "-o", tmp_path / "o", "--ray", "auto", "--no-verify"])
    assert ran.code == 1
    assert ran.err.startswith(f"bertprobe: {tmp_path}/long.txt, row 40 from 0 ('ship")
    assert "--truncate" in ran.err
    assert ran.err.count("\n") == 1
    assert ran.out == ""


def test_another_model_at_the_place_is_refused(nodes: Nodes, corpus: list[Path], tmp_path: Path) -> None:
    shutil.copytree(Path(bertprobe.__file__).parent / "pocket", tmp_path / "model")
    job = extraction(corpus, tmp_path / "o", model=str(tmp_path / "model"), actors=ACTORS)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    changed = {name: np.roll(values, 1) for name, values in weights.items()}
    save_file(changed, tmp_path / "model" / "new", {"format": "pt"})
    (tmp_path / "model" / "new").replace(tmp_path / "model" / "model.safetensors")
    with pytest.raises(OutputError, match=r"another run would be computed: model\.files\.model\.safetensors is sha256"):
        job.run()


def test_another_corpus_at_the_place_is_refused(nodes: Nodes, corpus: list[Path], tmp_path: Path) -> None:
    """Of bytes by the hash of the shard, of rows by that of the file."""
    for path in corpus:
        copy = tmp_path / path.name
        shutil.copy(path, copy)
        job = scanning([copy], tmp_path / f"of-{path.name}", actors=replace(ACTORS, count=1))
        data = bytearray(copy.read_bytes())
        data[4] ^= 1  # of gzip the time, which changes no text
        copy.write_bytes(data)
        with pytest.raises(CorruptFile, match="has changed"):
            job.run()


# ------------------------------------------------------------------------------------------------ gone on with


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("begins", [ACTORS, None], ids=["by actors", "alone"])
def test_an_interrupted_run_goes_on_by_actors_or_alone(
    begins: Actors | None, nodes: Nodes, corpus: list[Path], extracted: Path, scanned: Path, tmp_path: Path
) -> None:
    ends = None if begins else ACTORS
    with pytest.raises(KeyboardInterrupt):
        extraction(corpus, tmp_path / "e", actors=begins).run(once(interrupt, after=4))
    job = extraction(corpus, tmp_path / "e", replace(LIGHT, threads=None), actors=ends)
    assert job.resumed
    assert 0 < len(job.left) < len(job.shards)
    job.run()
    assert bytes_in(tmp_path / "e") == bytes_in(extracted)
    with pytest.raises(KeyboardInterrupt):
        scanning(corpus, tmp_path / "s", actors=begins).run(once(interrupt, after=4))
    again = scanning(corpus, tmp_path / "s", actors=ends)
    assert again.resumed
    assert again.state.done
    again.run()
    assert bytes_in(tmp_path / "s") == bytes_in(scanned)


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--actors", "2"], "go with --ray"),
        (["--gpus-per-actor", "1"], "go with --ray"),
        (["--ray", "corpus.txt"], "--ray corpus.txt is no address of a cluster; write local, auto, host:port or ray:"),
        (["--ray", "local", "--gpus-per-actor", "1.5"], "--gpus-per-actor 1.5 cannot be had"),
        (["--ray", "local", "--gpus-per-actor", "1", "--device", "cpu"], "computes on cpu, its actors have 1 GPUs"),
        (["--ray", "local", "--device", "cuda"], "give each actor one: --gpus-per-actor 1"),
    ],
)
@pytest.mark.parametrize("command", [["extract"], ["neurons", "scan"]], ids=["extract", "scan"])
def test_what_cannot_be_meant_is_refused(
    words: list[str], message: str, command: list[str], corpus: list[Path], tmp_path: Path, run: Run
) -> None:
    ran = run([*command, corpus[0], "-o", tmp_path / "o", *words])
    assert ran.code == 2
    assert message in " ".join(ran.err.replace("│", " ").split())
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", [["extract"], ["neurons", "scan"]], ids=["extract", "scan"])
def test_stdin_is_refused(command: list[str], tmp_path: Path, run: Run) -> None:
    ran = run([*command, "-", "-o", tmp_path / "o", "--ray", "local"])
    assert (ran.code, ran.err) == (
        2,
        "bertprobe: stdin cannot be read by actors; leave out --ray, or name a file\n",
    )


@pytest.mark.parametrize(
    "address", ["local", "auto", "127.0.0.1:6379", "head.cluster:6379", "ray://head:10001", "[::1]:6379"]
)
def test_an_address(address: str) -> None:
    assert Actors(address).address == address


@pytest.mark.parametrize("address", ["", "here", "texts.txt", "http://head:1", "head", "head:", "ray://head"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(BadSetting, match="is no address of a cluster"):
        Actors(address)


def test_too_few_actors() -> None:
    with pytest.raises(BadSetting, match="actors=0"):
        Actors(count=0)


def test_without_ray_it_is_said_how_to_have_it(
    corpus: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    job = extraction(corpus, tmp_path / "o", actors=Actors())
    with pytest.raises(UnsupportedFile, match=r"Ray is not installed; run: pip install 'bertprobe\[ray\]'"):
        job.run()


def test_actors_with_gpus_are_planned_for_without_one(corpus: list[Path], tmp_path: Path) -> None:
    """The plan is made where no GPU need be; what it says is what actors will do."""
    compute = Compute(backend="torch", dtype="bfloat16")
    job = extraction(corpus, tmp_path / "o", compute, actors=Actors(gpus=0.5))
    told = {"backend": "torch", "device": "cuda", "dtype": "bfloat16", "threads": None, "batch_tokens": 16384}
    assert job.manifest["compute"] == told
    assert scanning(corpus, tmp_path / "s", compute, actors=Actors(gpus=1)).manifest["compute"] == told
    assert job.work.runner.backend.device == "cpu"


def test_what_was_decided_when_a_run_began_holds_for_actors() -> None:
    old = {"compute": {"device": "cpu", "threads": 2}}
    assert placed(Compute(), Actors(), old).threads is None, "as it says, and not one"
    assert placed(Compute(), Actors(), None) == Compute(threads=1, device="cpu")
    assert placed(Compute(threads=3), Actors(), None).threads == 3
    with pytest.raises(BadSetting, match=r"computes on cuda.*give each actor one"):
        placed(Compute(), Actors(), {"compute": {"device": "cuda"}})


def kinds(kind: type[BertprobeError]) -> Iterator[type[BertprobeError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


@pytest.mark.parametrize("kind", [k for k in kinds(BertprobeError) if k.__module__ == errors.__name__])
def test_an_error_reaches_another_process(kind: type[BertprobeError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it was found", "mend it")))
    assert type(error) is kind
    assert (error.found, error.hint, str(error)) == ("it was found", "mend it", "it was found; mend it")


# ------------------------------------------------------------------------------------------------ writing at once


def test_two_who_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with RunFolder(place, "head.json") as folder:
        with folder.file("head.json") as head:
            head.put(0, b"{}")
        one, two = (RunFolder(place, "head.json", marked()) for _ in range(2))
        with one.file("a") as first:
            first.put(0, b"whole")
            with two.file("a") as second:
                second.put(0, b"who")
                assert len(list(place.iterdir())) == 3
                second.put(3, b"le")
            assert (place / "a").read_bytes() == b"whole"
        assert bytes_in(place) == {"a": b"whole", "head.json": b"{}"}


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "out"
    kept = {"head.json": b"{}", "notes.part": b"of mine", "x.abc.part": b"of mine"}
    place.mkdir()
    for name, data in kept.items():
        (place / name).write_bytes(data)
    (place / f"a{marked()}.part").touch()
    with RunFolder(place, "head.json"):
        assert bytes_in(place) == kept
        (place / f"b{marked()}.part").touch()
    assert bytes_in(place) == kept


def test_a_part_of_the_plan_is_the_actors_too(corpus: list[Path], tmp_path: Path) -> None:
    job = extraction(corpus, tmp_path / "o", actors=ACTORS, part=Part(2, 3))
    assert job.own == Part(2, 3).chosen(job.shards)
    assert WHOLE.chosen(job.shards) == job.shards
