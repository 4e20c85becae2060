"""The native encoder is transformers' model: bit for bit on equal shapes with torch, to 1e-5 with numpy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from conftest import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bertprobe.anatomy import find_parts
from bertprobe.anatomy.families import FAMILIES
from bertprobe.backends import BACKENDS
from bertprobe.checkpoint import open_checkpoint
from bertprobe.encoder import Encoder, encode, first_tokens, load_encoder, pool, why_not_native
from bertprobe.errors import BertprobeError, PartMissing, UnsupportedFile

NATIVE = [name for name, row in FAMILIES.items() if row.native]


@dataclass(frozen=True)
class Row:
    """Texts end to end, as `tokens.Packed` has them."""

    ids: np.ndarray[Any, Any]
    positions: np.ndarray[Any, Any]
    segments: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]


def packed(texts: Sequence[Sequence[int]], segments: Sequence[Sequence[int]] | None = None) -> Row:
    return Row(
        np.concatenate([np.asarray(text, np.int64) for text in texts]),
        np.concatenate([np.arange(len(text)) for text in texts]),
        np.concatenate([np.asarray(s, np.int64) for s in segments or [[0] * len(text) for text in texts]]),
        np.array([len(text) for text in texts]),
    )


def opened(folder: Path, name: str, **options: Any) -> Encoder:
    checkpoint = open_checkpoint(str(folder))
    return load_encoder(checkpoint, find_parts(checkpoint), BACKENDS[name](), **options)


def base(model: Any) -> Any:
    """The encoder inside DPR, the model itself elsewhere."""
    return model.question_encoder.bert_model if hasattr(model, "question_encoder") else model


TEXTS = [[5, 6, 7, 8, 9], [9, 8, 7, 6, 5], [3, 4], [2]]


@pytest.mark.parametrize("family", NATIVE)
def test_every_native_family_equals_transformers(family: str, tmp_path: Path) -> None:
    """Bitwise for two texts of one length; 1e-5 for numpy, whose products sum in another order."""
    model = base(zoo.save(family, tmp_path).eval())
    pair = packed(TEXTS[:2])
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(TEXTS[:2]))
        taps: dict[int, torch.Tensor] = {}
        hidden = encode(opened(tmp_path, "torch"), pair, lambda layer, before, after: taps.setdefault(layer, after))
        assert torch.equal(hidden.view(2, 5, -1), theirs.last_hidden_state)
        seen: list[torch.Tensor] = []
        hooks = [l.intermediate.register_forward_hook(lambda m, i, o: seen.append(o)) for l in model.encoder.layer]  # noqa: E741
        model(input_ids=torch.tensor(TEXTS[:2]))
        for hook in hooks:
            hook.remove()
        assert all(torch.equal(taps[i].view(2, 5, -1), seen[i]) for i in range(len(seen)))
        ours = encode(opened(tmp_path, "numpy"), pair)
        assert np.abs(ours.reshape(2, 5, -1) - theirs.last_hidden_state.numpy()).max() < 1e-5
        if getattr(model, "pooler", None) is not None:
            encoder = opened(tmp_path, "torch")
            assert torch.equal(pool(encoder, hidden[first_tokens(pair)]), theirs.pooler_output)


@pytest.mark.parametrize("family", NATIVE)
def test_what_a_config_leaves_out_is_the_default_of_its_class(family: str, tmp_path: Path) -> None:
    """transformers fills in pad_token_id 1 for RoBERTa and its kin, from which they count positions."""
    zoo.save(family, tmp_path, pad_token_id=zoo._model_class(family).config_class.pad_token_id)
    config = json.loads((tmp_path / "config.json").read_text())
    left_out = {key: value for key, value in config.items() if key not in ("pad_token_id", "layer_norm_eps")}
    (tmp_path / "config.json").write_text(json.dumps(left_out))
    model = base(type(zoo.build(family)).from_pretrained(tmp_path)).eval()
    assert model.config.layer_norm_eps == 1e-12
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(TEXTS[:2])).last_hidden_state
        assert torch.equal(encode(opened(tmp_path, "torch"), packed(TEXTS[:2])).view(2, 5, -1), theirs)


@pytest.mark.parametrize("used", [True, False, None])
def test_ernies_tasks_count_only_where_the_config_says_so(used: bool | None, tmp_path: Path) -> None:
    zoo.save("ernie", tmp_path, use_task_id=True)
    config = json.loads((tmp_path / "config.json").read_text())
    changed = {**config, "use_task_id": used} if used is not None else {k: config[k] for k in config if k[:4] != "use_"}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    model = type(zoo.build("ernie")).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(TEXTS[:2])).last_hidden_state
        assert torch.equal(encode(opened(tmp_path, "torch"), packed(TEXTS[:2])).view(2, 5, -1), theirs)


def test_layers_from_which_heads_were_pruned(tmp_path: Path) -> None:
    """As the model whose values of those heads are zero: pruning takes heads out and leaves the others as wide."""
    model = zoo.build("bert").eval()
    size = zoo.HIDDEN // 4
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = {0: [0, 2, 3], 1: [1]}
    with torch.no_grad():
        for layer, heads in kept.items():
            rows = torch.cat([torch.arange(head * size, (head + 1) * size) for head in heads])
            gone = torch.tensor([row for row in range(zoo.HIDDEN) if row not in rows.tolist()])
            at = f"encoder.layer.{layer}.attention."
            for name in ("query", "key", "value"):
                for kind in ("weight", "bias"):
                    state[f"{at}self.{name}.{kind}"] = state[f"{at}self.{name}.{kind}"][rows]
            state[f"{at}output.dense.weight"] = state[f"{at}output.dense.weight"][:, rows].contiguous()
            model.get_submodule(f"{at}self.value").weight[gone] = 0
            model.get_submodule(f"{at}self.value").bias[gone] = 0
        theirs = model(input_ids=torch.tensor(TEXTS[:2])).last_hidden_state
    model.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    for name in BACKENDS:
        ours = opened(tmp_path, name)
        assert ours.heads == (3, 1)
        hidden = ours.backend.numpy(encode(ours, packed(TEXTS[:2])))
        assert np.abs(hidden.reshape(2, 5, -1) - theirs.numpy()).max() < 1e-5


@pytest.mark.parametrize("left_out", [("model_type",), ("model_type", "architectures", "pad_token_id")])
def test_a_roberta_is_known_without_its_name(left_out: tuple[str, ...], tmp_path: Path, run: Run) -> None:
    """By the class that saved it, else by a table of positions with two rows that no token uses."""
    model = zoo.save("roberta", tmp_path, max_position_embeddings=130, pad_token_id=1).eval()
    config = json.loads((tmp_path / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in left_out}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(TEXTS[:2])).last_hidden_state
    assert torch.equal(encode(opened(tmp_path, "torch"), packed(TEXTS[:2])).view(2, 5, -1), theirs)
    facts = json.loads(run(["inspect", tmp_path, "--json"]).out)["facts"]
    assert facts["family"] == "roberta"
    assert any("no model_type: taken for roberta" in note for note in facts["notes"])


def test_positions_cannot_be_counted_from_no_padding(tmp_path: Path) -> None:
    zoo.save("roberta", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    with pytest.raises(UnsupportedFile, match="gives pad_token_id as null; positions are counted from it"):
        opened(tmp_path, "numpy")


@pytest.mark.parametrize("name", BACKENDS)
def test_minilm_equals_transformers(name: str, minilm: Path) -> None:
    from transformers import BertModel

    model = BertModel.from_pretrained(minilm).eval()
    encoder = opened(minilm, name)
    rng = np.random.default_rng(0)
    texts = [[101, *rng.integers(1000, 30000, n), 102] for n in (40, 40, 17, 3)]
    segments = [[0] * 20 + [1] * 22, [0] * 42, [1] * 19, [0] * 5]
    row = packed(texts, segments)
    with torch.inference_mode():
        hidden = encoder.backend.numpy(encode(encoder, row))
        for start, text, kinds in zip(first_tokens(row), texts, segments, strict=True):
            theirs = model(torch.tensor([text]), token_type_ids=torch.tensor([kinds])).last_hidden_state[0].numpy()
            assert np.abs(hidden[start : start + len(text)] - theirs).max() < 1e-5


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert", "data2vec-text"])
def test_a_padding_token_in_the_text_keeps_its_position(family: str, tmp_path: Path) -> None:
    model = zoo.save(family, tmp_path).eval()
    pad = model.config.pad_token_id
    texts = [[5, pad, 7, 8], [6, 7], [pad, 9]]
    encoder, row = opened(tmp_path, "torch"), packed(texts)
    with torch.no_grad():
        hidden = encode(encoder, row)
        for start, text in zip(first_tokens(row), texts, strict=True):
            theirs = model(input_ids=torch.tensor([text]), attention_mask=torch.ones(1, len(text))).last_hidden_state[0]
            assert (hidden[start : start + len(text)] - theirs).abs().max() < 2e-6


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), data=st.randoms())
def test_neighbours_and_order_change_nothing(name: str, lengths: list[int], data: Any, tiny_bert: Path) -> None:
    """2e-6 · max(1, max|x|): single-token slices and other shapes round differently, nothing more."""
    encoder = opened(tiny_bert, name)
    texts = [[data.randrange(5, 30) for _ in range(length)] for length in lengths]
    with torch.inference_mode():
        alone = [encoder.backend.numpy(encode(encoder, packed([text]))) for text in texts]
        order = data.sample(range(len(texts)), len(texts))
        row = packed([texts[i] for i in order])
        together = encoder.backend.numpy(encode(encoder, row))
    for start, i in zip(first_tokens(row), order, strict=True):
        limit = 2e-6 * max(1, float(np.abs(alone[i]).max()))
        assert np.abs(together[start : start + len(texts[i])] - alone[i]).max() <= limit


@pytest.mark.parametrize("name", BACKENDS)
def test_first_tokens_alone_are_the_same(name: str, minilm: Path) -> None:
    encoder, row = opened(minilm, name), packed([[101, 2023, 2003, 102], [101, 2054, 102], [101, 102]])
    with torch.inference_mode():
        whole = encoder.backend.numpy(encode(encoder, row))[first_tokens(row)]
        first = encoder.backend.numpy(encode(encoder, row, first_only=True))
    assert first.shape == (3, 384)
    assert np.abs(first - whole).max() < 2e-6


def test_only_what_is_asked_for_is_touched(minilm: Path) -> None:
    checkpoint = open_checkpoint(str(minilm))
    encoder = load_encoder(checkpoint, find_parts(checkpoint), BACKENDS["numpy"](), depth=1, pooler=False)
    assert encoder.depth == 1
    assert not [name for name in encoder.weights if "layer.1." in name or "pooler" in name]
    values = encoder.layers[0]["encoder.layer.0.intermediate.dense.weight"]
    assert not values.flags.owndata, "float32 is viewed, not copied"


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_it_runs_from_every_storage(layout: str, tiny_bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(tiny_bert / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "zip")
    (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    row = packed(TEXTS)
    assert np.array_equal(encode(opened(tmp_path, "numpy"), row), encode(opened(tiny_bert, "numpy"), row))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrow_checkpoint_runs_in_float32(dtype: str, tmp_path: Path) -> None:
    zoo.build("bert").to(getattr(torch, dtype)).save_pretrained(tmp_path)
    model = zoo.build("bert").to(getattr(torch, dtype)).float()
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(TEXTS[:1])).last_hidden_state[0].numpy()
    for name in BACKENDS:
        encoder = opened(tmp_path, name)
        assert np.abs(encoder.backend.numpy(encode(encoder, packed(TEXTS[:1]))) - theirs).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_decoder": True}, "decoder"),
        ({"add_cross_attention": True}, "decoder"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"hidden_act": "nonsense"}, "nonsense"),
        ({"model_type": "deberta"}, "deberta"),
    ],
)
def test_what_this_encoder_does_not_compute_is_refused(
    change: dict[str, Any], words: str, tiny_bert: Path, tmp_path: Path
) -> None:
    import json

    config = json.loads((tiny_bert / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tiny_bert / "model.safetensors").read_bytes())
    with pytest.raises(UnsupportedFile, match=words):
        opened(tmp_path, "numpy")


def test_a_missing_tensor_is_refused_never_invented(tiny_bert: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tiny_bert / "model.safetensors")
    del tensors["encoder.layer.1.attention.self.key.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    with pytest.raises(PartMissing, match=r"attention\.self\.key\.bias"):
        opened(tmp_path, "numpy")


@pytest.mark.parametrize("family", [family for family in zoo.FAMILIES if family not in NATIVE])
def test_other_families_are_left_to_transformers(family: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    assert why_not_native(find_parts(checkpoint)) is not None
    with pytest.raises(BertprobeError):
        opened(tmp_path, "numpy")
