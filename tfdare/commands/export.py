"""``tfdare export``: SavedModels for TensorFlow Serving, published once they passed the checks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from tfdare.commands.parser import Parser, run
from tfdare.data import read_requests
from tfdare.errors import UsageError
from tfdare.export import ExportError, export_servables
from tfdare.export.check import TOLERANCE
from tfdare.export.compact_tables import DTYPES
from tfdare.export.publish import REPORT
from tfdare.export.signatures import SCORE, SEARCH, signature_inputs
from tfdare.sequences import Sequences, open_matching
from tfdare.training import load_run


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare export``; returns the exit code."""
    parser = Parser(
        "export",
        "tfdare export --run build/dare --output build/servables --name dare",
        "Writes a SavedModel with signatures search, score and serving_default (only the last "
        "where the model does not search), runs it with the loader of a server, and publishes it "
        "as OUTPUT/NAME/VERSION.",
    )
    parser.add_argument("--run", required=True, help="folder that `tfdare train` wrote")
    parser.add_argument("--output", required=True, help="folder that holds the servables")
    parser.add_argument("--name", default="dare", help="name of the servable")
    parser.add_argument("--version", type=int, help="an integer; the next free one if not given")
    parser.add_argument(
        "--row_ids", action="store_true", help="signatures over row ids, without look-up tables"
    )
    halves = parser.add_mutually_exclusive_group()
    halves.add_argument(
        "--split",
        action="store_true",
        help="write NAME_search and NAME_score, too, each with only the tables that it reads",
    )
    halves.add_argument(
        "--only",
        choices=(SEARCH, SCORE),
        help="write nothing but NAME_search, or NAME_score: after `tfdare renew-attention` the "
        "score servable stays",
    )
    parser.add_argument(
        "--attention_dtype",
        choices=DTYPES,
        default="float32",
        help="type in which attention tables are stored",
    )
    parser.add_argument(
        "--sequences",
        help="folder with test requests on which the recall of search with another "
        "--attention_dtype is measured; synthetic requests if not given",
    )

    def action(options):
        opened = load_run(options.run)
        lookup = None if options.row_ids else opened.sequences_for_lookup()
        recall_on = None
        if options.sequences:
            recall_on = _test_requests(open_matching(options.sequences, opened.schema))
        model = opened.model()
        try:
            paths = export_servables(
                model,
                options.output,
                lookup,
                options.name,
                options.version,
                options.split,
                options.attention_dtype,
                recall_on,
                options.only,
            )
        except ExportError as error:
            raise UsageError(str(error)) from error
        for name, path in paths.items():
            half = name.removeprefix(options.name).lstrip("_")
            names = half or ", ".join(signature_inputs(model, True))
            print(
                f"{path}: {names} ran through the session loader and agree with the Keras model "
                f"to {TOLERANCE:g}"
            )
        _print_sizes(os.path.join(next(iter(paths.values())), "assets.extra", REPORT), paths)

    return run(parser, argv, action)


def _test_requests(sequences: Sequences, most: int = 512):
    for inputs, *_ in read_requests(sequences, "test", batch_size=most):
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return arrays, f"test requests of {os.path.basename(os.path.abspath(sequences.path))}"
    raise UsageError(f"{sequences.path!r} has no test requests. Received: `sequences`")


def _print_sizes(report_path: str, paths: Mapping[str, str]) -> None:
    """Prints size and recall of compact attention tables, and the size of each servable."""
    if not os.path.exists(report_path):
        return
    with open(report_path, encoding="utf-8") as file:
        report = json.load(file)
    (recall,) = (key for key in report if key.startswith("recall@"))
    print(
        f"attention tables as {report['attention_dtype']}: {report['bytes']:,} bytes, "
        f"{report['bytes'] / report['bytes_float32']:.2f} of float32's; {recall} "
        f"{report[recall]:.4f} against float32 over {report['targets']:,} targets "
        f"({report['measured_on']})"
    )
    for name, path in paths.items():
        variables = os.path.join(path, "variables")
        size = sum(entry.stat().st_size for entry in os.scandir(variables))
        print(f"{name}: {size:,} bytes of variables")
