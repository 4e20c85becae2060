"""What a checkpoint asks for beyond being read: code, kernels, repositories, other files. Nothing comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trapped


@pytest.mark.parametrize("job", ["hostile", "tokenizers"])
def test_what_names_code_or_a_place_leads_nowhere(job: str, tmp_path: Path) -> None:
    """Each is left out, and the numbers are the plain model's bit for bit, or refused in one line."""
    found = trapped.run(job, tmp_path)
    assert found["notes"] == []
    assert not (tmp_path / "marker").exists(), "a module of the checkpoint was imported"
    assert len(found["ran"]) > 200
    wrong = [case for case in found["ran"] if case[2].partition(":")[0] != case[1]]
    assert wrong == [], "\n".join(map(str, wrong))
    refusals = [case[2] for case in found["ran"] if case[1] == "refused"]
    assert all("\n" not in said and len(said) < 600 and "; " in said for said in refusals)
    assert all(str(tmp_path) in said for said in refusals), "each says of which checkpoint"
