"""``python -m loralith.verif.formal.sby_yosys -ql LOG SCRIPT``: Yosys as sby calls it. Native, where the one that comes with sby is not."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    from pyosys import libyosys  # type: ignore[import-not-found]

    match arguments:
        case ["-ql", log, script]:
            libyosys.run_pass(f"tee -q -o {log} script {script}", libyosys.Design())
            return 0
    print(f"error: expected -ql LOG SCRIPT, not {' '.join(arguments)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
