"""Mutants of the blocks of test plans: hundreds in one native model, then the blocks' own tests, proofs of equivalence
and properties.

Each stage asks about the mutants that the ones before let live, cheapest stage first.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loralith.mutants.faults_stage import FAULTS, ILLEGAL, FaultsStage
from loralith.mutants.mutant_error import MutantError
from loralith.mutants.native_stage import CASES, PRODUCTS, SEED, NativeStage
from loralith.mutants.schema_model import Drawn, Schema, build_schema
from loralith.mutants.verdict_store import VerdictStore, key_of
from loralith.spec.config import Config
from loralith.toolchain import python_module
from loralith.verif.mutation import asked_equivalence
from loralith.verif.mutation.sites import locate
from loralith.verif.test_plans import Plan

__all__ = ["STAGES", "BlockCampaign", "BlockVerdict"]

REPO = Path(__file__).resolve().parents[3]
STAGES = ("native", "faults", "unit", "equivalent", "formal")
NATIVE = {"native": NativeStage, "faults": FaultsStage}
SECONDS = {"unit": 300, "formal": 300, "equivalent": 240}
"""Most of a mutant at a stage."""
SAVE_SECONDS = 20.0
HELD = 100
"""Mutants of a plan that a model holds, though fewer may be asked about: more of them later need no other model."""


@dataclass(frozen=True)
class BlockVerdict:
    """Attributes: plan, block, name of the mutant. outcome: killed, equivalent, survived, or open where a stage
    has not been asked. stage, by: where and by what. cpu_seconds."""

    plan: str
    block: str
    name: str
    outcome: str
    stage: str
    by: str
    cpu_seconds: float


class BlockCampaign:
    """Mutants of ``plans`` on ``config``. Parameters: folder, for work; store, verdicts so far; stages, those of `STAGES` that run."""

    def __init__(
        self, config: Config, plans: Sequence[Plan], folder: Path, store: VerdictStore, stages: Sequence[str], log: Callable[[str], None]
    ) -> None:
        self.config, self.plans, self.folder, self.store, self.stages, self.log = config, list(plans), folder, store, stages, log
        self._saved = time.monotonic()
        self._running: dict[str, NativeStage | FaultsStage] = {}

    def run(self, count: int, seed: int, all_plans: Sequence[Plan]) -> tuple[Schema, list[BlockVerdict]]:
        """Draws up to ``count`` mutants of each plan and asks all stages about them. One model holds the mutants of ``all_plans``."""
        schema = build_schema(self.config, {plan.block: plan.covers for plan in all_plans}, max(count, HELD), seed)
        verdicts = []
        for plan in self.plans:
            verdicts += self._verdicts(plan, schema.mutants[plan.block][:count], schema)
            self.store.save()
        return schema, verdicts

    def _verdicts(self, plan: Plan, drawn: Sequence[Drawn], schema: Schema) -> list[BlockVerdict]:
        """One for each mutant, from all stages: of those that this campaign does not run, from what the store knows."""
        seconds = dict.fromkeys((mutant.name for mutant in drawn), 0.0)
        ended: dict[str, BlockVerdict] = {}
        waiting: set[str] = set()
        alive = list(drawn)
        for stage in STAGES:
            answered = set()
            for mutant, found, spent in self._stage(stage, plan, alive, schema):
                answered.add(mutant.name)
                seconds[mutant.name] += spent
                if found:
                    outcome = "equivalent" if stage == "equivalent" else "killed"
                    ended[mutant.name] = BlockVerdict(plan.block, mutant.block, mutant.name, outcome, stage, found, seconds[mutant.name])
            alive = [mutant for mutant in alive if mutant.name not in ended]
            if stage in (*NATIVE, "equivalent") or self._tests(stage, plan):
                waiting |= {mutant.name for mutant in alive} - answered
            self.log(f"{plan.block}: {len(alive)} of {len(drawn)} left after {stage}, {len(waiting)} not asked about")
        for mutant in alive:
            outcome = "open" if mutant.name in waiting else "survived"
            ended[mutant.name] = BlockVerdict(plan.block, mutant.block, mutant.name, outcome, "", "", seconds[mutant.name])
        return [ended[mutant.name] for mutant in drawn]

    def _stage(self, stage: str, plan: Plan, mutants: Sequence[Drawn], schema: Schema) -> Iterator[tuple[Drawn, str, float]]:
        """(mutant, what the stage found, CPU seconds) of those about which it can say something."""
        tests = self._tests(stage, plan)
        if not tests and stage in ("unit", "formal"):
            return
        files = self._files(stage, tests)
        sizes = {"native": [f"{SEED} {CASES} {PRODUCTS}"], "faults": [f"{SEED} {FAULTS} {ILLEGAL}"]}.get(stage, [])
        basis = key_of(stage, *sizes, *tests, json.dumps(self.config.as_dict()), files=files)
        keys = {mutant.name: key_of(basis, _source(mutant.block), mutant.name) for mutant in mutants}
        unknown = [mutant for mutant in mutants if self.store.get(keys[mutant.name]) is None]
        ask = self._native if stage in NATIVE else self._asked
        if unknown and stage in self.stages:
            for name, found, spent in ask(stage, tests, unknown, schema, plan.covers):
                self.store.put(keys[name], found, spent)
                if time.monotonic() - self._saved > SAVE_SECONDS:
                    self._saved = time.monotonic()
                    self.store.save()
                    self.log(f"{plan.block}: {stage}, {sum(self.store.get(key) is not None for key in keys.values())} of {len(keys)}")
        for mutant in mutants:
            kept = self.store.get(keys[mutant.name])
            if kept is not None:
                yield mutant, *kept

    def _tests(self, stage: str, plan: Plan) -> list[str]:
        """The plan's tests in Amaranth's simulator, or its properties."""
        if stage == "unit":
            names = [test for feature in plan.features for test in feature.tests if test.startswith("tests/unit/")]
        else:
            names = [name for feature in plan.features for name in feature.properties] if stage == "formal" else []
        return list(dict.fromkeys(names))

    def _files(self, stage: str, tests: Sequence[str]) -> list[Path]:
        """What a verdict of the stage depends on, apart from the block."""
        if stage == "unit":
            return sorted({REPO / test.partition("::")[0] for test in tests})
        if stage == "formal":
            return sorted((REPO / "verif" / "loralith" / "verif" / "formal" / "blocks").glob("*.py"))
        if stage == "equivalent":
            return [Path(str(asked_equivalence.__file__))]
        return sorted((REPO / "verif" / "loralith" / "verif" / "lists").glob("*.py"))

    def _native(
        self, stage: str, tests: Sequence[str], mutants: Sequence[Drawn], schema: Schema, blocks: Sequence[str]
    ) -> Iterator[tuple[str, str, float]]:
        if stage not in self._running:
            self.log(f"{stage}: lists on the model with no mutant in force")
            self._running[stage] = NATIVE[stage](self.config, schema.library)
        for mutant in mutants:
            before = os.times()
            found = self._running[stage].killed_by(mutant.number)
            yield mutant.name, found, _spent(before)

    def _asked(
        self, stage: str, tests: Sequence[str], mutants: Sequence[Drawn], schema: Schema, blocks: Sequence[str]
    ) -> Iterator[tuple[str, str, float]]:
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        out, into = os.pipe()
        request = {
            "stage": stage,
            "blocks": list(blocks),
            "mutants": [mutant.name for mutant in mutants],
            "tests": list(tests),
            "folder": str(work),
            "seconds": SECONDS[stage],
            "config": self.config.as_dict(),
            "answers": into,
        }
        log = work / "log"  # a pipe that nobody reads would stop it
        with log.open("w", encoding="utf-8") as said:
            process = subprocess.Popen(
                python_module("loralith.verif.mutation.asked"),
                cwd=REPO,
                stdin=subprocess.PIPE,
                pass_fds=[into],
                text=True,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        os.close(into)
        answered = 0
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request))
            process.stdin.close()
            with os.fdopen(out, encoding="utf-8") as answers:
                for line in answers:
                    answer = json.loads(line)
                    answered += 1
                    if answer["error"]:
                        self.log(f"{stage}: {answer['name']}: {answer['error'].strip().splitlines()[-1]}")
                    yield answer["name"], answer["found"], answer["cpu_seconds"]
            process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if answered < len(mutants):
            end = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise MutantError(f"stage {stage} ended after {answered} of {len(mutants)} mutants:\n{end}")


def _spent(before: os.times_result) -> float:
    now = os.times()
    return (
        now.user
        + now.system
        + now.children_user
        + now.children_system
        - before.user
        - before.system
        - before.children_user
        - before.children_system
    )


def _source(block: str) -> str:
    """A block's text, without comments and format."""
    return "\n".join(ast.unparse(node) for _, node in locate(block))
