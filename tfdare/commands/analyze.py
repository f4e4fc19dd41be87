"""``tfdare analyze``: the paper's measurements on trained models, as one page and as data."""

from __future__ import annotations

import os
import sys

from tfdare.analysis.findings import findings_table, list_findings
from tfdare.analysis.runner import NUMBERS, REPORT, analyze
from tfdare.commands.parser import Parser, run
from tfdare.sequences import SPLITS


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare analyze``; returns the exit code."""
    parser = Parser(
        "analyze",
        "tfdare analyze --run build/dare --against build/twin --sequences build/sequences "
        "--output build/analysis",
        "Measures what the paper measures: gradients, attention, search, representations, "
        "convergence, efficiency and accuracy. Writes OUTPUT/report.html, one page with all "
        "figures, and OUTPUT/analysis.json, every number in them.",
    )
    add = parser.add_argument
    add("--run", required=True, help="folder that `tfdare train` wrote")
    add("--against", nargs="+", default=[], metavar="RUN", help="further runs to compare with it")
    add("--sequences", required=True, help="folder that the runs were trained on")
    add("--output", required=True, help="folder for the report")
    add("--truth", help="LOG.truth.json of a simulated log, to measure search against")
    add("--comparison", help="folder that `tfdare compare` wrote, for AUC against K_A")
    add("--split", default="test", choices=SPLITS, help="split to measure on")
    add(
        "--limit",
        type=int,
        default=6000,
        help="approximate number of requests for search and discriminability",
    )
    add(
        "--steps",
        type=int,
        default=240,
        help="training steps to repeat, at most, for gradients and convergence over time; 0: none",
    )
    add("--every", type=int, default=20, help="training steps between two measurements")
    add(
        "--min_count",
        type=int,
        default=20,
        help="observations below which the information of a category at a position is 0",
    )
    add("--smoothing", type=float, default=0.0, help="added to each count of mutual information")
    add("--resamples", type=int, default=200, help="resamples of users, for 95%% intervals")

    def action(options):
        arguments = dict(vars(options))
        runs = [arguments.pop("run"), *arguments.pop("against")]
        numbers = analyze(runs, **arguments)
        print(findings_table(list_findings(numbers)) or "  no models to compare")
        print(
            f"  {numbers['seconds']:.0f} s; written to "
            f"{os.path.join(options.output, REPORT)} and {NUMBERS} beside it"
        )

    return run(parser, argv, action)


if __name__ == "__main__":
    sys.exit(main())
