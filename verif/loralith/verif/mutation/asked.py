"""`python -m loralith.verif.mutation.asked`: what a block's own tests, properties and a proof of equivalence say of mutants.

Reads a request from standard input, as JSON: `stage` ("unit", "formal" or "equivalent"), `blocks`, all classes that the mutants are of;
`mutants`, their names; `tests`, names of tests for "unit" or claims ("module.name") for "formal"; `folder` to work in; `seconds` for each
mutant; `answers`, a file descriptor. Writes a line of JSON there for each mutant: `name`, and `found`: the test or claim that fails, or how
the mutant is proved equivalent, else empty; `error` where nothing could be found out; `cpu_seconds`. Each mutant is asked about in a
process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from . import asked_equivalence, asked_formal, asked_tests
from .choice import restrict, select
from .forked import Died, forked
from .schemata import SchemaMutant, install, mutants_of, rewritten

STAGES: dict[str, Callable[[dict[str, Any]], Callable[[SchemaMutant], str]]] = {
    "unit": asked_tests.prepare,
    "formal": asked_formal.prepare,
    "equivalent": asked_equivalence.prepare,
}
"""What each stage makes of a request: a function that asks about the mutant that is selected."""


def main() -> None:
    request = json.load(sys.stdin)
    with os.fdopen(request["answers"], "w", encoding="utf-8") as answers:  # standard output belongs to the tests
        for answer in _answers(request):
            print(json.dumps(answer), file=answers, flush=True)


def _answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    wanted = set(request["mutants"])
    chosen = [mutant for block in request["blocks"] for mutant in mutants_of(block) if mutant.name in wanted]
    numbered = dict(enumerate(chosen, 1))
    install(rewritten(numbered))
    warnings.simplefilter("ignore")  # of mutants' widths
    restrict(())
    select(0)
    ask = STAGES[request["stage"]](request)
    for number, mutant in numbered.items():

        def of_mutant(number: int = number, mutant: SchemaMutant = mutant) -> str:
            select(number)
            return ask(mutant)

        found, error, before = "", "", os.times()
        try:
            found = forked(of_mutant, request["seconds"])
        except Died as died:
            found, error = (f"the tests' process {died}", "") if request["stage"] == "unit" else ("", str(died))
        except RuntimeError as raised:
            error = str(raised)
        now = os.times()
        spent = now.children_user + now.children_system - before.children_user - before.children_system
        yield {"name": mutant.name, "found": found, "error": error, "cpu_seconds": spent}


if __name__ == "__main__":
    main()
