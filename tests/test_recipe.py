"""What is found of a folder's settings files: every planted fault, nothing else, in messages that can be printed."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import faulty
import pytest
from faulty import FAULTS, LAYOUTS, Fault, Folder, draw, found_in, named, sound

from bertprobe.errors import BertprobeError, printable
from bertprobe.recipe.rules import RULES
from bertprobe.recipe.tools import tools_of
from bertprobe.verdicts import SEVERITIES, Finding

FOLDERS = 100
MUTATIONS = 300


def check_messages(findings: list[Finding]) -> None:
    """Messages are lines that can be printed: one sentence, no control characters, no page of text."""
    for finding in findings:
        assert finding.severity in SEVERITIES
        for text in (finding.message, finding.hint):
            assert text == printable(text)
            assert 0 < len(text) < 2000


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_sound_folder_nothing_is_said_but_what_is_true(layout: str, tmp_path: Path) -> None:
    folder, truths = sound(layout)
    findings = found_in(folder.write(tmp_path))
    assert Counter(map(named, findings)) == Counter(truths)
    assert not [finding for finding in findings if finding.severity == "error"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_kind_of_fault_is_named_wherever_it_can_be(fault: Fault, tmp_path: Path) -> None:
    layouts = [name for name in LAYOUTS if fault.fits(*sound(name))]
    assert layouts, "no folder has what this fault changes"
    for name in random.Random(fault.name).sample(layouts, min(4, len(layouts))):
        for seed in range(3):
            folder, truths = sound(name)
            expected = Counter(fault.plant(folder, random.Random(seed)))
            expected.update(truth for truth in truths if faulty.AREAS[truth[0]] not in fault.drops)
            findings = found_in(folder.write(tmp_path / f"{name}-{seed}"))
            assert Counter(map(named, findings)) == expected, (name, seed)
            check_messages(findings)


def test_every_rule_is_planted_by_several_kinds_or_true_of_a_folder() -> None:
    rules = Counter(rule for fault in FAULTS for rule in planted_by(fault))
    rules.update(rule for _, truths in LAYOUTS.values() for rule, _ in truths)
    assert {rule.name for rule in RULES} == {*rules}
    assert len(FAULTS) > 30


def planted_by(fault: Fault) -> set[str]:
    layouts = [name for name in LAYOUTS if fault.fits(*sound(name))]
    return {
        rule for name in layouts for seed in range(3) for rule, _ in fault.plant(sound(name)[0], random.Random(seed))
    }


@pytest.mark.parametrize("seed", range(FOLDERS))
def test_of_a_folder_with_faults_each_is_found_and_nothing_else(seed: int, tmp_path: Path) -> None:
    layout, folder, planted, expected = draw(seed)
    findings = found_in(folder.write(tmp_path))
    assert Counter(map(named, findings)) == expected, (layout, [one.name for one in planted])
    check_messages(findings)


# ------------------------------------------------------------------------------------------------ whatever files say

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 10**30, 1e308, 1.5, float("nan"), float("inf"), 10**4000),
    *("", "x", "\x1b[2J\x07", "\u202e", "\ud800", "\x00", "a" * 10_000, "../..", "cls", "torch.x", "1_Pooling"),
    *([], [[]], [{}], {}, {"": ""}, [None] * 50, {"content": 5}, {"type": []}, {"normalizers": [1, {}]}),
)


def mutated(value: Any, luck: random.Random, depth: int = 0) -> Any:
    """A JSON value with something in it replaced, taken out, doubled or renamed."""
    if luck.random() < 0.15 or depth > 6 or not value or not isinstance(value, dict | list):
        return luck.choice(ODD)
    if isinstance(value, list):
        at = luck.randrange(len(value))
        return [
            *value[:at],
            *luck.choice(([], [mutated(value[at], luck, depth + 1)], [value[at]] * 2)),
            *value[at + 1 :],
        ]
    key = luck.choice(list(value))
    changed = {name: inner for name, inner in value.items() if name != key}
    how = luck.random()
    if how < 0.15:
        return changed
    if how < 0.25:
        return changed | {str(luck.choice(ODD)): value[key]}
    return changed | {key: mutated(value[key], luck, depth + 1)}


def torn(raw: bytes, luck: random.Random) -> bytes:
    """Bytes with some of them replaced, or an end missing."""
    out = bytearray(raw)
    for _ in range(luck.randint(1, 8)):
        if out:
            out[luck.randrange(len(out))] = luck.randrange(256)
    return bytes(out[: luck.randint(0, len(out))] if luck.random() < 0.3 else out)


def odd_folder(seed: int) -> Folder:
    luck = random.Random(seed)
    folder, _ = sound(luck.choice(sorted(LAYOUTS)))
    for _ in range(luck.randint(1, 6)):
        name = luck.choice(sorted(folder.files))
        value = folder.files[name]
        if luck.random() < 0.1:
            folder.files.pop(name)
        elif isinstance(value, bytes) or luck.random() < 0.15:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            folder.files[name] = torn(raw, luck)
        else:
            folder.files[name] = mutated(value, luck)
        if not folder.files:
            break
    return folder


@pytest.mark.parametrize("part", range(10))
def test_whatever_settings_say_findings_can_be_printed(part: int, tmp_path: Path) -> None:
    for seed in range(part * MUTATIONS // 10, (part + 1) * MUTATIONS // 10):
        root = tmp_path / str(seed)
        root.mkdir()
        odd_folder(seed).write(root)
        began = time.perf_counter()
        try:
            recipe = faulty.read_recipe(faulty.LocalFolder(root))
            findings = faulty.judge_recipe(recipe)
            tools_of(recipe)
        except BertprobeError:
            continue
        check_messages(list(findings))
        assert time.perf_counter() - began < 5, seed
