"""Every block is short and has a test or a proof of its own; the command that says so counts right."""

import json
from pathlib import Path

import pytest

from loralith import cli
from loralith.reports import rtl_report
from loralith.verif.block_inventory import LIMIT, Block, inventory

# Blocks that are longer, and blocks that are tested in their unit alone. None may be added.
TO_DIVIDE: set[str] = set()
TO_TEST: set[str] = set()


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    return inventory()


def test_no_elaborate_is_longer_than_the_limit(blocks: list[Block]) -> None:
    assert {block.name: block.lines for block in blocks if block.lines > LIMIT and block.name not in TO_DIVIDE} == {}


def test_no_block_is_without_a_test_or_a_proof(blocks: list[Block]) -> None:
    assert [block.name for block in blocks if not block.checked and block.name not in TO_TEST] == []


@pytest.fixture
def tree(tmp_path: Path) -> list[Path]:
    """Folders of RTL, tests and proofs."""
    files = {
        "rtl/small.py": "class Small:\n    def elaborate(self, platform):\n        return 1\n\n\nclass NoBlock:\n    pass\n",
        "rtl/deep/large.py": "class Large:\n    def elaborate(\n        self, platform\n    ):\n        x = 1\n        return x\n",
        "tests/test_small.py": "from loralith.rtl.small import Small\nfrom elsewhere import Large\n",
        "tests/test_large.py": "from helpers.rig import Rig\n",
        "helpers/rig.py": "from loralith.rtl.deep.large import Large\n",
        "proofs/large.py": "def build():\n    from loralith.rtl.deep.large import Large\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [tmp_path / name for name in ("rtl", "tests", "proofs")]


def test_lines_and_importers_are_counted(tree: list[Path]) -> None:
    found = [(block.name, block.file, block.lines, block.tests, block.proofs) for block in inventory(*tree)]
    assert found == [("Large", "deep/large.py", 5, ("test_large.py",), ("large.py",)), ("Small", "small.py", 2, ("test_small.py",), ())]
    (tree[1] / "test_small.py").unlink()
    assert [block.name for block in inventory(*tree) if not block.checked] == ["Small"]


def test_a_missing_folder_is_named(tree: list[Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing is not there; a checkout has it"):
        inventory(tree[0], tree[1] / "nothing", tree[2])


def test_the_command_prints_what_the_inventory_finds(
    blocks: list[Block], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rtl_report, "inventory", lambda: blocks)
    assert cli.main(["report", "rtl", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["lines"]) for one in figures["blocks"]] == [(block.name, block.lines) for block in blocks]
    assert figures["over_limit"] == [block.name for block in blocks if block.lines > LIMIT]
    assert cli.main(["report", "rtl", "--count", "1"]) == 0
    page = capsys.readouterr().out
    assert f"| {blocks[0].name} | {blocks[0].lines} |" in page
    assert f"| {blocks[1].name} |" not in page
    assert cli.main(["report", "rtl", "--count", "0"]) == 2
    assert "--count must be at least 1, not 0" in capsys.readouterr().err
