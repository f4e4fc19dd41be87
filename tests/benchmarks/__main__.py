"""``make bench``: every ``measure()`` under tests/benchmarks, into build/benchmarks.json.

Figures are medians; ratios compare what was measured in turns in the same run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import pkgutil
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
OUTPUT = pathlib.Path("build")


def main() -> int:
    """Runs the benchmarks named on the command line, or all."""
    package = importlib.import_module("tests.benchmarks")
    known = sorted(
        module.name
        for module in pkgutil.iter_modules(package.__path__)
        if module.name.startswith("bench_")
    )
    parser = argparse.ArgumentParser(description="make bench")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; default: all")
    names = parser.parse_args().names or known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "benchmarks.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        started = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures.update(importlib.import_module(f"tests.benchmarks.{name}").measure())
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        path.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    width = max(map(len, figures))
    table = "\n".join(f"{key:<{width}}  {figures[key]:>14,.4g}" for key in sorted(figures))
    (OUTPUT / "benchmarks.txt").write_text(table + "\n")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
