"""`graft`: the written folder is one that transformers loads with nothing missing, bit for bit of its sources."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bundle
import kin
import pytest
import torch
import transformers
from conftest import Ran, Run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

WIDE = {"vocab_size": 60, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 20, "embedding_size": 64}  # fmt: skip

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A tiny model of a class of transformers, from a seed, as `save_pretrained` writes it; a pooler looks trained."""

    def go(cls: str, name: str, seed: int = 0, *, trained: bool = True, **settings: Any) -> Path:
        model_class = getattr(transformers, cls)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = model_class(model_class.config_class(**{**WIDE, **settings}))
            for weight in (w for n, w in model.named_parameters() if trained and n.endswith("pooler.dense.weight")):
                weight += torch.full_like(weight, 1 / len(weight))  # a direction three times as strong as noise
        model.eval().save_pretrained(tmp_path / name)
        return tmp_path / name

    return go


@pytest.fixture
def graft(run: Run) -> Callable[..., Ran]:
    def go(donor: Path | str, recipient: Path | str, out: Path, *argv: str) -> Ran:
        return run(["graft", str(donor), str(recipient), "-o", str(out), *argv])

    return go


def loaded(folder: Path, cls: Any = AutoModel) -> tuple[Any, dict[str, Any]]:
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    return model, info


@pytest.mark.parametrize(
    ("donor_class", "recipient_class"),
    [
        ("BertModel", "BertForMaskedLM"),
        ("BertForPreTraining", "BertForTokenClassification"),
        ("BertForSequenceClassification", "BertForQuestionAnswering"),
        ("RobertaModel", "RobertaForMaskedLM"),
        ("XLMRobertaModel", "XLMRobertaForTokenClassification"),
        ("CamembertModel", "CamembertForMaskedLM"),
        ("Data2VecTextModel", "Data2VecTextForMaskedLM"),
        ("ErnieModel", "ErnieForMaskedLM"),
    ],
)
def test_transformers_loads_it_with_nothing_missing(
    donor_class: str, recipient_class: str, make: Make, graft: Any, tmp_path: Path
) -> None:
    donor, recipient = make(donor_class, "donor", 1), make(recipient_class, "recipient", 2)
    out = tmp_path / "out"
    ran = graft(donor, recipient, out)
    assert ran.code == 0, ran.err
    model, info = loaded(out)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert all(not key.startswith(("encoder", "pooler", "embeddings")) for key in info["unexpected_keys"])
    theirs, _ = loaded(donor)
    own, _ = loaded(recipient)
    for name, tensor in model.state_dict().items():
        source = theirs if name.startswith("pooler.") else own
        assert torch.equal(tensor, source.state_dict()[name]), name
    # The class that saved the recipient still finds all of its own.
    again, info = loaded(out, getattr(transformers, recipient_class))
    assert not info["missing_keys"]
    before, _ = loaded(recipient, getattr(transformers, recipient_class))
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_only_the_pooler_of_the_donor_is_read(make: Make, graft: Any, tmp_path: Path) -> None:
    data = json.loads(graft("pocket", kin.without_pooler(tmp_path / "lost"), tmp_path / "out", "--json").out)
    assert data["donor"]["facts"]["bytes_read"] < 210_000
    assert list(data) == ["donor", "recipient", "written", "findings", "version"]
    assert list(data["written"]) == ["path", "files", "metadata", "tensors"]
    text = (Path(__file__).parents[1] / "docs" / "exports.md").read_text()
    keys = [*data, *data["written"], *data["written"]["tensors"][0], *data["written"]["metadata"]]
    assert not [key for key in keys if f"`{key}`" not in text and f'"{key}"' not in text]
    assert {file["name"] for file in data["written"]["files"]} == {
        "config.json", "model.safetensors", "tokenizer.json", "vocab.txt",
    }  # fmt: skip


def test_the_pooled_output_is_that_of_before_it_was_lost(run: Run, graft: Any, tmp_path: Path) -> None:
    lost = kin.without_pooler(tmp_path / "lost")
    assert graft("pocket", lost, tmp_path / "out").code == 0
    assert run(["pool", "some text", "-m", str(lost)]).code == 1
    values = [
        json.loads(run(["pool", "some text", "-m", str(ref), "--json"]).out)["texts"][0]["pooled"]["values"]
        for ref in ("pocket", tmp_path / "out")
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_the_donors_tensors_take_the_recipients_dtype(make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1), make("BertForMaskedLM", "recipient", 2)
    tensors = load_file(recipient / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in tensors.items()}, recipient / "model.safetensors", {"format": "pt"})
    shown = graft(donor, recipient, tmp_path / "out").out
    assert "BF16" in shown
    written = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(donor / "model.safetensors")["pooler.dense.weight"]
    assert torch.equal(written["bert.pooler.dense.weight"], original.bfloat16())
    huge = load_file(donor / "model.safetensors")
    huge["pooler.dense.bias"][0] = 1e30
    save_file(huge, donor / "model.safetensors", {"format": "pt"})
    save_file({n: t.half() for n, t in tensors.items()}, recipient / "model.safetensors", {"format": "pt"})
    ran = graft(donor, recipient, tmp_path / "narrow")
    assert (ran.code, ran.out) == (1, "")
    assert "would be infinite" in ran.err
    assert not list(tmp_path.glob("*narrow*"))


def test_provenance_stands_in_the_metadata(make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1), make("BertForMaskedLM", "recipient", 2)
    assert graft(donor, recipient, tmp_path / "out").code == 0
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        notes = file.metadata()
    assert (notes["format"], notes["grafted"], notes["family"]) == ("pt", "pooler", "bert")
    assert (notes["donor"], notes["source"]) == (str(donor), str(recipient))
    for key, folder in (("donor_files", donor), ("source_files", recipient)):
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert json.loads(notes[key]) == {"model.safetensors": f"sha256 {digest}"}


def test_wrapped_names_and_a_lone_bert_config(make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1), make("BertForMaskedLM", "recipient", 2)
    own, _ = loaded(recipient)
    odd = tmp_path / "odd"
    odd.mkdir()
    tensors = load_file(recipient / "model.safetensors")
    torch.save({"state_dict": {f"module.{n}": t for n, t in tensors.items()}}, odd / "pytorch_model.bin")
    config = json.loads((recipient / "config.json").read_text())
    (odd / "bert_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "model_type"}))
    assert graft(donor, odd, tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "bert"
    model, info = loaded(tmp_path / "out")
    assert not info["missing_keys"]
    states = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pooler")}
    assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in states.items())


def test_a_tensorflow_donor_and_recipient(graft: Any, tmp_path: Path) -> None:
    stored = {name: t.float().numpy() for name, t in load_file(kin.POCKET / "model.safetensors").items()}
    config = json.loads((kin.POCKET / "config.json").read_text())
    for name, kept in (("whole", stored), ("lost", {n: t for n, t in stored.items() if "pooler" not in n})):
        (tmp_path / name).mkdir()
        bundle.save(tmp_path / name / "bert_model.ckpt", bundle.as_google(kept))
        (tmp_path / name / "bert_config.json").write_text(
            json.dumps({k: v for k, v in config.items() if k != "model_type"})
        )
        shutil.copy(kin.POCKET / "vocab.txt", tmp_path / name)
    assert graft(tmp_path / "whole", tmp_path / "lost", tmp_path / "out").code == 0
    model, info = loaded(tmp_path / "out", transformers.BertForPreTraining)
    assert not info["missing_keys"]
    original = kin.load(transformers.BertForPreTraining)
    assert all(torch.equal(t, original.state_dict()[n]) for n, t in model.state_dict().items())


def test_an_exported_pooler_is_a_donor(run: Run, make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("RobertaModel", "donor", 1), make("RobertaForMaskedLM", "recipient", 2)
    pooler = tmp_path / "pooler.safetensors"
    assert run(["export", donor, "-o", pooler]).code == 0
    assert graft(pooler, recipient, tmp_path / "out").code == 0
    _, info = loaded(tmp_path / "out")
    assert not info["missing_keys"]


def test_intermediate_layers(make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1), make("BertModel", "recipient", 2)
    assert graft(donor, recipient, tmp_path / "out", "--part", "intermediate", "--layers", "1").code == 0
    one, other, found = (load_file(f / "model.safetensors") for f in (donor, recipient, tmp_path / "out"))
    for name, tensor in found.items():
        assert torch.equal(tensor, (one if ".1.intermediate." in name else other)[name])
    assert graft(donor, recipient, tmp_path / "more", "--layers", "1").code == 2


# ------------------------------------------------------------------------------------------------ what does not fit


def test_what_does_not_fit_is_refused(make: Make, graft: Any, tmp_path: Path, shared_checkpoints: Path) -> None:
    bert, lost = make("BertModel", "bert", 1), make("BertForMaskedLM", "lost", 2)
    cases = {
        "the donor is 64 wide, the recipient 32": (bert, make("BertForMaskedLM", "narrow", hidden_size=32)),
        "holds no pooler": (make("BertForMaskedLM", "donorless", 3), lost),
        "has no place for a pooler": (bert, make("ElectraModel", "electra")),
        "of the layout distilbert": (bert, make("DistilBertModel", "distil", dim=64, hidden_dim=96, n_layers=2)),
        "the donor is roberta, the recipient bert": (make("RobertaModel", "roberta"), lost),
        "has a pooler of its own": (bert, make("BertModel", "own", 4)),
    }
    for found, (donor, recipient) in cases.items():
        if "place for a pooler" in found:
            (donor / "config.json").rename(donor / "aside")  # else the families tell first
        ran = graft(donor, recipient, tmp_path / "out")
        if (donor / "aside").exists():
            (donor / "aside").rename(donor / "config.json")
        assert (ran.code, ran.out) == (1, ""), found
        assert found in ran.err
        assert ran.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert graft(bert, cases["has a pooler of its own"][1], tmp_path / "out", "--replace").code == 0
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["pooler.dense.weight"], load_file(bert / "model.safetensors")["pooler.dense.weight"])


def test_an_untrained_donor_and_a_strange_one_are_told(make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1, trained=False), make("BertForMaskedLM", "recipient", 2)
    ran = graft(donor, recipient, tmp_path / "out", "--json")
    assert ran.code == 1
    assert "the donor's pooler is untrained" in ran.err
    assert not (tmp_path / "out").exists()
    ran = graft(donor, recipient, tmp_path / "out", "--json", "--force")
    assert ran.code == 0
    assert {finding["rule"] for finding in json.loads(ran.out)["findings"]} == {"pooler-untrained", "unrelated"}
    lost = kin.without_pooler(tmp_path / "lost")
    assert json.loads(graft("pocket", lost, tmp_path / "sound", "--json").out)["findings"] == []


def test_a_pooler_that_a_head_reads_is_left(make: Make, graft: Any, run: Run, tmp_path: Path) -> None:
    """What diff advises is what graft does: a classifier was trained with the pooler that it has."""
    donor = make("BertModel", "donor", 1)
    recipient = make("BertForSequenceClassification", "recipient", 1)
    tensors = load_file(recipient / "model.safetensors")
    tensors["bert.pooler.dense.weight"] = torch.randn(tensors["bert.pooler.dense.weight"].shape) * 0.02
    save_file(tensors, recipient / "model.safetensors", {"format": "pt"})
    found = json.loads(run(["diff", str(donor), str(recipient), "--json"]).out)["findings"]
    (finding,) = [finding for finding in found if finding["rule"] == "pooler-reinitialised"]
    assert "classifier.weight of B reads B's pooler" in finding["hint"]
    assert "graft" not in finding["hint"]
    ran = graft(donor, recipient, tmp_path / "out", "--replace")
    assert ran.code == 1
    assert "classifier.weight of the recipient reads its pooler" in ran.err
    assert graft(donor, recipient, tmp_path / "out", "--replace", "--force").code == 0
    (finding,) = [
        f for f in json.loads(run(["inspect", str(recipient), "--json"]).out)["findings"] if f["part"] == "pooler"
    ]
    assert finding["rule"] == "pooler-untrained"
    assert finding["hint"].startswith("leave it: classifier.weight reads it")


def test_a_pooler_that_is_untrained_is_not_recommended(make: Make, run: Run) -> None:
    donor = make("BertModel", "donor", 1, trained=False)
    for cls in ("BertForMaskedLM", "BertModel"):
        recipient = make(cls, cls, 1 if cls == "BertForMaskedLM" else 2, trained=False)
        found = json.loads(run(["diff", str(donor), str(recipient), "--json"]).out)["findings"]
        hints = [f["hint"] for f in found if f["rule"] in ("pooler-lost", "pooler-reinitialised")]
        assert all("graft" not in hint and "untrained" in hint for hint in hints)
        assert hints or cls == "BertModel"


def test_a_recipient_without_a_config_is_refused(make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1), make("BertForMaskedLM", "recipient", 2)
    (recipient / "config.json").unlink()
    assert "has no config.json" in graft(donor, recipient, tmp_path / "out").err


# ------------------------------------------------------------------------------------------------ whole or not at all


def test_nothing_is_overwritten_unasked(make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1), make("BertForMaskedLM", "recipient", 2)
    out = tmp_path / "out"
    out.mkdir()
    assert graft(donor, recipient, out).code == 0  # an empty folder is free
    before = (out / "model.safetensors").read_bytes()
    assert "is there already" in graft(donor, recipient, out).err
    assert graft(donor, recipient, out, "--force").code == 0
    assert (out / "model.safetensors").read_bytes() == before
    (out / "notes.txt").write_text("mine")
    assert "holds other files, such as notes.txt" in graft(donor, recipient, out, "--force").err
    assert (out / "notes.txt").read_text() == "mine"
    for theirs in (donor, recipient):
        whole = {path.name: path.read_bytes() for path in theirs.iterdir()}
        assert graft(donor, recipient, theirs, "--force").code == 1
        assert {path.name: path.read_bytes() for path in theirs.iterdir()} == whole
    assert "there is no folder" in graft(donor, recipient, tmp_path / "no" / "where").err
    (tmp_path / "file").write_text("")
    assert "no folder" in graft(donor, recipient, tmp_path / "file", "--force").err


def test_a_damaged_recipient_leaves_nothing_behind(make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1), make("BertForMaskedLM", "recipient", 2)
    place = tmp_path / "place"
    place.mkdir()
    file = recipient / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert graft(donor, recipient, place / "out").code == 1
    shutil.rmtree(recipient)
    recipient = make("BertForMaskedLM", "recipient", 2)
    tensors = load_file(recipient / "model.safetensors")
    torch.save(tensors, recipient / "pytorch_model.bin")
    file.unlink()
    archive = (recipient / "pytorch_model.bin").read_bytes()
    (recipient / "pytorch_model.bin").write_bytes(archive.replace(b"PK\x03\x04", b"PK\x03\x05", 9))
    assert graft(donor, recipient, place / "out").code == 1
    assert list(place.iterdir()) == []


def test_a_donor_on_the_hub(hub: Any, make: Make, graft: Any, tmp_path: Path) -> None:
    donor, recipient = make("BertModel", "donor", 1), make("BertForMaskedLM", "recipient", 2)
    commit = hub.add("some/donor", {path.name: path for path in donor.iterdir()})
    assert graft("some/donor", recipient, tmp_path / "out").code == 0
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        notes = file.metadata()
    assert notes["donor_revision"] in str(commit) or json.loads(notes["donor_files"])
    assert json.loads(notes["donor_files"])["model.safetensors"] == f"commit {notes['donor_revision']}"
