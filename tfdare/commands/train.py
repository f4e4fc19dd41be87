"""``tfdare train``: sequences in, trained model and its metrics out, resumable after a kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfdare.commands.parser import Parser, run
from tfdare.evaluation import summary
from tfdare.training import TrainOptions, train


def add_train_options(parser: Parser, defaults: Mapping[str, Any]) -> None:
    """Adds the options of training that `defaults` names, with these defaults.

    Args:
        parser: Parser.
        defaults: mapping of fields of :class:`TrainOptions` to their default values.
    """
    for field in dataclasses.fields(TrainOptions):
        if field.name in defaults:
            choices = field.metadata["choices"]
            parser.add_argument(
                f"--{field.name}",
                default=defaults[field.name],
                choices=None if choices is None else sorted(choices),
                **field.metadata["argparse"],
            )


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare train``; returns the exit code."""
    parser = Parser(
        "train",
        "tfdare train --sequences build/sequences --model DARE --output build/dare",
        "Trains a model, keeps the epoch with the best validation AUC, evaluates it. "
        "Writes model.keras and metrics.json. Called again after a kill, it resumes.",
    )
    add = parser.add_argument
    add("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    add("--output", required=True, help="folder for the run")
    add_train_options(parser, dataclasses.asdict(TrainOptions()))
    add("--overwrite", action="store_true", help="replace a run that is already at --output")

    def action(options):
        metrics = train(**vars(options))
        for split in ("validation", "test"):
            print(f"{options.model}, {split}")
            print(summary(metrics[split]))
        training = metrics["training"]
        pace = training["examples_per_s"]
        print(
            f"best epoch {training['best_epoch']} of {training['epochs_run']}; "
            f"{'' if pace is None else f'{pace:,} examples/s; '}run kept at {options.output}"
        )

    return run(parser, argv, action)
