"""`python -m loralith.gen.schema_verilog REQUEST --output FILE`: which mutants a signal can select, and the Verilog that holds them.

REQUEST is JSON: `config`, fields of a configuration; `blocks`, lists of names of classes by name of a plan; `count` and `seed` of the
mutants that are drawn for each plan. The Verilog has one more input than the accelerator's, `mutant`, the number of the one in force. The
description beside it (FILE with the suffix .json) has `mutants`: by plan the drawn ones as [number, name, block, module], and `population`:
by plan how many there are, and how many of them can be selected.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from amaranth.hdl import Fragment, Module, Signal

from loralith.gen.verilog import MODULE, text
from loralith.spec.config import Config
from loralith.verif.mutation.choice import SELECTED, SELECTED_BITS, outcomes, restrict, share_wires
from loralith.verif.mutation.schemata import install, mutants_of, ranked, rewritten


def main() -> None:
    parser = argparse.ArgumentParser(description="Verilog that holds mutants, of which an input selects one")
    parser.add_argument("request", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    request = json.loads(args.request.read_text(encoding="utf-8"))
    verilog, description = convert(Config(**request["config"]), request["blocks"], request["count"], request["seed"])
    args.output.write_text(verilog, encoding="utf-8")
    args.output.with_suffix(".json").write_text(json.dumps(description), encoding="utf-8")


def convert(config: Config, blocks: dict[str, list[str]], count: int, seed: int) -> tuple[str, dict[str, Any]]:
    """The Verilog and its description, see above. No module of loralith.rtl may be imported before."""
    of_plan = {plan: ranked([mutant for name in names for mutant in mutants_of(name)], seed) for plan, names in blocks.items()}
    numbered = dict(enumerate((mutant for mutants in of_plan.values() for mutant in mutants), 1))
    install(rewritten(numbered))
    share_wires()
    numbers = {mutant.name: number for number, mutant in numbered.items()}
    from loralith.rtl.top import Loralith

    class Selected(Loralith):
        """The accelerator with an input that selects a mutant.

        The input has a register: a simulator would evaluate whatever depends on the input itself twice in a cycle.
        """

        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            m.d.sync += SELECTED.eq(mutant_input)
            return m

    mutant_input = Signal(SELECTED_BITS, name="mutant")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mutants' widths
        Fragment.get(Loralith(config), None)
        drawn, population = {}, {}
        for plan, mutants in of_plan.items():
            possible = [mutant for mutant in mutants if outcomes.get(numbers[mutant.name], {}).get("selectable")]
            drawn[plan] = [[numbers[mutant.name], mutant.name, mutant.block, mutant.module] for mutant in possible[:count]]
            population[plan] = [len(mutants), len(possible)]
        restrict({entry[0] for entries in drawn.values() for entry in entries})
        top = Selected(config)
        verilog = text(top, MODULE, [*(getattr(top, name) for name in top.signature.members), mutant_input])
    return verilog, {"mutants": drawn, "population": population}


if __name__ == "__main__":
    main()
