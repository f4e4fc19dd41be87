"""``tfdare evaluate``: metrics of a trained model on one split."""

from __future__ import annotations

import os

from tfdare.commands.parser import Parser, run
from tfdare.errors import UsageError
from tfdare.evaluation import (
    evaluate,
    evaluate_in_full,
    evaluate_lengths,
    lengths_table,
    predict,
    slices_of,
    slices_table,
    summary,
)
from tfdare.evaluation.slices import METRICS
from tfdare.files import as_json, write_json
from tfdare.sequences import SPLITS, Sequences, open_matching
from tfdare.training import Run, load_run
from tfdare.training.run_folder import METRICS_FILE, run_name, update_metrics

EVALUATION = "evaluation.json"


def _evaluate_slices(runs: list[Run], sequences: Sequences, options) -> None:
    predictions = {
        run_name(run, runs): predict(run.model(), sequences, options.split, options.batch_size)
        for run in runs
    }
    slices = slices_of(next(iter(predictions.values())), sequences, options.split)
    numbers = evaluate_in_full(predictions, slices, options.resamples)
    for metric in METRICS:
        print(f"\n{slices_table(numbers, metric)}")
    path = os.path.join(options.run, EVALUATION)
    write_json(path, as_json({"split": options.split, "slices": numbers}))
    print(f"\n  written to {path}")


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare evaluate``; returns the exit code."""
    parser = Parser(
        "evaluate",
        "tfdare evaluate --run build/dare --sequences build/sequences --split test",
        "Prints metrics of a trained model on one split, and writes them to RUN/metrics.json. With "
        "--slices or --against also by slices, with 95% intervals over users, in "
        "RUN/evaluation.json.",
    )
    parser.add_argument("--run", required=True, help="folder that `tfdare train` wrote")
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--split", default="test", choices=SPLITS, help="split to evaluate")
    parser.add_argument("--batch_size", type=int, default=512, help="requests at once")
    parser.add_argument(
        "--slices",
        action="store_true",
        help="also by history length, item seen before, item frequency and user activity",
    )
    parser.add_argument(
        "--lengths",
        action="store_true",
        help="also with histories cut to their 0, 1, 2, 4, ... newest behaviors, for users with "
        "a short history",
    )
    parser.add_argument(
        "--against",
        metavar="RUN",
        help="second run on the same sequences, for paired differences in every slice",
    )
    parser.add_argument(
        "--resamples", type=int, default=200, help="resamples of users, for the intervals"
    )

    def action(options):
        for name in ("batch_size", "resamples"):
            if getattr(options, name) < 1:
                raise UsageError(f"`{name}` must be positive. Received: {getattr(options, name)}")
        opened = load_run(options.run)
        sequences = open_matching(options.sequences, opened.schema)
        model = opened.model()
        numbers = evaluate(model, sequences, options.split, options.batch_size)
        if options.lengths:
            numbers["lengths"] = evaluate_lengths(
                model, sequences, options.split, options.batch_size
            )
        update_metrics(options.run, options.split, numbers)
        print(f"{options.split} split of {options.sequences}")
        print(summary(numbers))
        if options.lengths:
            print(lengths_table(numbers["lengths"]))
        print(f"  written to {os.path.join(options.run, METRICS_FILE)}")
        if options.slices or options.against:
            runs = [opened] + ([load_run(options.against)] if options.against else [])
            _evaluate_slices(runs, sequences, options)

    return run(parser, argv, action)
