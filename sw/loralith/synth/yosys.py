"""`python -m loralith.synth.yosys SCRIPT`: run a Yosys script in pyosys. A process of its own, because an assertion in Yosys ends it."""

import sys


def main(script: str) -> int:
    from pyosys import libyosys  # type: ignore[import-not-found]

    libyosys.run_pass(f"script {script}", libyosys.Design())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
