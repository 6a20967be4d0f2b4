"""Random raw command lists with fixed seeds on oracle, reference device, checker and RTL; `loralith soak --lists` runs more."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loralith.cli import main
from loralith.device.reference import ReferenceDevice
from loralith.soak.list_runner import Machines
from loralith.spec.commands import COMMANDS, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource
from loralith.spec.config import PRESETS
from loralith.verif.lists.case import BASE, Case, Layout
from loralith.verif.lists.drawn_configs import NARROW, random_config
from loralith.verif.lists.drawn_places import Fields
from loralith.verif.lists.generate import generate
from loralith.verif.lists.illegal import illegal
from loralith.verif.lists.legal import fault, loosen
from loralith.verif.lists.oracle_checks import check_list
from loralith.verif.lists.shrink import shrink

CONFIGS = (PRESETS["tiny"], NARROW)
SEEDS = 40


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.name)
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    each = Machines(request.param)
    yield each
    each.close()


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_legal_lists_do_what_the_oracle_says(machines: Machines, first: int) -> None:
    for seed in range(first, first + 10):
        assert machines.compare(generate(machines.config, seed)) is None, f"seed {seed}"


@pytest.mark.parametrize("first", range(0, 2 * SEEDS, 20))
def test_illegal_lists_are_refused_alike(machines: Machines, first: int) -> None:
    for seed in range(first, first + 20):
        assert machines.compare(illegal(machines.config, seed)) is None, f"seed {seed}"


@pytest.mark.parametrize(
    ("base", "length"),
    [
        (BASE + 4, 1),
        (BASE + 1, 0),
        (BASE, 0),
        (BASE - 128, 1),
        (BASE - 128, 2),
        (BASE + Layout.size - 128, 2),
        (BASE + Layout.size, 1),
        (BASE, Layout.size // 128 + 1),
        (BASE, (1 << 32) - 1),
        ((1 << 64) - 128, 1),
        ((1 << 64) - 128, 2),
        (0, 1),
    ],
)
def test_bad_lists_are_refused_alike(machines: Machines, base: int, length: int) -> None:
    refusal = check_list(base, length, machines.config, (BASE, BASE + Layout.size))
    assert refusal is not None
    assert machines.native is not None
    machines.native.power_cycle()
    for device in (ReferenceDevice(machines.config, Layout.size, BASE), machines.native):
        status = device.run_at(base, length).status
        assert (status.code, status.detail, status.unit, status.address, status.command) == (*refusal, 0), device


def test_a_wrong_device_is_found_made_small_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that loses the last row of padding."""
    from loralith.device.interpreter import units

    right = units.load

    def wrong(c, *rest):
        right({**c, "pad_rows": max(c["pad_rows"] - 1, 0)}, *rest)

    monkeypatch.setattr(units, "load", wrong)
    failure = tmp_path / "failure.json"
    arguments = ["soak", "--lists", "--device", "reference", "--commands", "20000", "--seed", "1", "--failure", str(failure)]
    assert main(arguments) == 1
    case = Case.from_json(json.dumps(json.loads(failure.read_text())["case"]))
    assert case.commands <= 8  # of some forty
    assert any(c.get("pad_rows") for commands in case.lists for c in commands)
    assert main(["soak", "--replay", str(failure), "--device", "reference"]) == 1
    monkeypatch.setattr(units, "load", right)
    assert main(["soak", "--replay", str(failure), "--device", "reference"]) == 0


def test_a_soak_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.json"
    base = ["soak", "--lists", "--device", "reference", "--seed", "5", "--configs", "tiny,random:3", "--json"]

    def figures(*more: str) -> dict:
        assert main([*base, *more]) == 0
        found = json.loads(capsys.readouterr().out)
        return {key: found[key] for key in ("cases", "lists", "illegal", "commands", "difference")}

    figures("--commands", "100", "--state", str(state))
    assert figures("--commands", "300", "--state", str(state)) == figures("--commands", "300")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--commands", "0"], "--commands must be over 0, not 0"),
        (["--seconds", "-1"], "seconds must be above 0 and finite, not -1"),
        (["--configs", "random:x"], "random:SEED"),
        (["--failure", "."], ". cannot be written: it is a folder"),
        (["--state", "/dev/null/state.json"], "/dev/null is not a folder"),
        (["--replay", "missing.json"], "missing.json"),
    ],
)
def test_wrong_settings_are_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", "--lists", "--device", "reference", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_cases_survive_json() -> None:
    for case in (generate(NARROW, 2), illegal(NARROW, 2)):
        assert Case.from_json(case.as_json()) == replace(case, lists=Case.from_json(case.as_json()).lists)
        assert [Case.from_json(case.as_json()).packed(i) for i in range(len(case.lists))] == [
            case.packed(i) for i in range(len(case.lists))
        ]


def test_shrinking_keeps_what_fails() -> None:
    """Whatever still has a STORE of a packed row: one command is left."""

    def fails(case: Case) -> bool:
        return any(c.get("packed") for commands in case.lists for c in commands)

    case = next(case for case in (generate(NARROW, seed) for seed in range(100)) if fails(case))
    small = shrink(case, fails)
    assert small.commands == 1
    assert fails(small)


def test_the_generator_draws_every_choice() -> None:
    """Every value of every flag and choice, in a command that uses it, and some semaphore in every field of tokens. The configurations
    have no vector lanes, and so neither VECTOR nor transfers of the vector unit's memories."""
    seen: set[tuple] = set()
    for seed in range(60):
        for command in (c for commands in generate(NARROW, seed).lists for c in commands):
            opcode = Opcode(command["opcode"])
            names = [f.name for f in COMMANDS[opcode].fields.values() if f.width <= 4]
            seen |= {(opcode, name, command[name]) for name in names if used(command, name)}
            seen |= {(opcode, name, True) for name in ("wait", "signal", "segment_wait", "read_signal") if command.get(name)}
    flags = {
        Opcode.LOAD: {"transpose": 2, "packed4": 2, "target": LoadTarget.BOTH + 1},
        Opcode.COMPUTE: {
            **dict.fromkeys(("chained", "acc_read", "acc_write", "to_out", "to_left", "stochastic"), 2),
            **dict.fromkeys(("stat_enable", "stat_clear", "device_shift", "shift_up"), 2),
            "fold_log2": len(NARROW.folds),
            "out_mode": len(OutMode),
            "scale_mode": len(ScaleMode),
        },
        Opcode.STORE: {"transpose": 2, "packed": 2, "source": StoreSource.STATS + 1},
    }
    wanted = {(opcode, name, value) for opcode, of in flags.items() for name, count in of.items() for value in range(count)}
    wanted |= {(opcode, name, True) for opcode in flags for name in ("wait", "signal")}
    wanted |= {(Opcode.COMPUTE, name, True) for name in ("segment_wait", "read_signal")}
    assert wanted - seen == set()


def used(command: Fields, name: str) -> bool:
    """Whether a command's other fields let this one matter."""
    needs = {
        "stochastic": ("out_mode", 1),
        "scale_mode": ("out_mode", 1),
        "stat_clear": ("stat_enable", 1),
        "shift_up": ("device_shift", 1),
    }
    if name not in needs:
        return True
    other, value = needs[name]
    return command[other] == value and (name != "shift_up" or bool(command["chained"]))


def test_tokens_are_legal_and_needed() -> None:
    """By a reading of the finished lists; with a token less, many are not legal or race."""
    loose = 0
    for seed in range(30):
        case = generate(NARROW, seed)
        assert [fault(commands, NARROW) for commands in case.lists] == [""] * len(case.lists), f"seed {seed}"
        loose += bool(fault(loosen(case, np.random.default_rng(seed)).lists[0], NARROW))
    assert loose >= 10


@pytest.mark.parametrize("seed", range(12))
def test_random_configurations_are_filled(seed: int) -> None:
    """On the reference device: rows and columns that differ, every bus width, small memories."""
    config = random_config(seed)
    machines = Machines(config, native=False)
    for number in range(4):
        assert machines.compare(generate(config, number, 15)) is None, f"seed {number} of {config}"
        assert machines.compare(illegal(config, number)) is None, f"seed {number} of {config}"
