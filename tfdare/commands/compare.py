"""``tfdare compare``: published models side by side, on one log or on several."""

from __future__ import annotations

import os

from tfdare.commands.parser import Parser, run
from tfdare.commands.train import add_train_options
from tfdare.comparison import logs_markdown, markdown
from tfdare.comparison.logs import compare_logs
from tfdare.comparison.runner import (
    LIST_DEFAULTS,
    RESAMPLES,
    TRAINING_DEFAULTS,
    compare,
)
from tfdare.models import MODELS


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare compare``; returns the exit code."""
    parser = Parser(
        "compare",
        "tfdare compare --sequences build/sequences --output build/comparison "
        "--models DARE TWIN --seeds 1 2 3",
        "Trains models with several seeds on the same sequences and compares them: "
        "accuracy with intervals, size, speed. Writes comparison.md, comparison.json and "
        "comparison.png, and every run under runs/. Called again, it trains only what is missing. "
        "Of several folders, each log's comparison is written to a subfolder of its name, and all "
        "of them to logs.md, logs.json and logs.png.",
    )
    add = parser.add_argument
    add(
        "--sequences",
        required=True,
        nargs="+",
        metavar="FOLDER",
        help="folder that `tfdare prepare` wrote; several, to compare over several logs",
    )
    add("--output", required=True, help="folder for runs and results")
    add(
        "--models",
        nargs="+",
        default=list(LIST_DEFAULTS["models"]),
        metavar="MODEL",
        help=f"any of {', '.join(MODELS)}, also with +evidence and +vectors, as TWIN+evidence; "
        "the former, all of them, if not given",
    )
    for name, number, metavar, help in (
        ("seeds", int, "SEED", "of initial weights and shuffling; one training for each"),
        (
            "attention_dims",
            int,
            "DIM",
            "K_A, columns per attention table; also the width of shared tables",
        ),
        ("representation_dims", int, "DIM", "K_R, columns per representation table"),
        (
            "learning_rates",
            float,
            "RATE",
            "if several, the validation AUC of the first seed selects one for each row",
        ),
    ):
        default = list(LIST_DEFAULTS[name])
        add(f"--{name}", type=number, nargs="+", default=default, metavar=metavar, help=help)
    add_train_options(parser, TRAINING_DEFAULTS)
    add(
        "--tune",
        type=int,
        default=0,
        metavar="N",
        help="trials of each row before the seeds are run: learning rate, dropout and auxiliary "
        "weight, chosen by validation AUC; the first trial has the settings given; 0: none",
    )
    add("--resamples", type=int, default=RESAMPLES, help="resamples of users, for the intervals")

    def action(options):
        sequences, *others = options.sequences
        arguments = {**vars(options), "say": lambda line: print(line, flush=True)}
        if others:
            text, name = logs_markdown(compare_logs(**arguments)), "logs.md"
        else:
            text, name = markdown(compare(**{**arguments, "sequences": sequences})), "comparison.md"
        print(f"\n{text}\nWritten to {os.path.join(options.output, name)}, .json and .png")

    return run(parser, argv, action)
