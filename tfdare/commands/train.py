"""``tfdare train``: sequences in, trained model and its metrics out, resumable after a kill."""

from __future__ import annotations

from tfdare.commands.parser import Parser, run
from tfdare.evaluation import summary
from tfdare.models import MODELS
from tfdare.training import train
from tfdare.training.compile import OPTIMIZERS, SCHEDULES


def add_options(parser, epochs: int, patience: int) -> None:
    """The options that `tfdare train` and `tfdare compare` have in common."""
    add = parser.add_argument
    add("--epochs", type=int, default=epochs, help="passes over the train split, at most")
    add(
        "--patience",
        type=int,
        default=patience,
        help="epochs without a better validation AUC after which training ends; 0: never",
    )
    add("--batch_size", type=int, default=683, help="requests a step, each with its candidates")
    add("--top_k", type=int, default=20, help="K, behaviors that search keeps")
    add("--optimizer", default="adam", choices=OPTIMIZERS, help="each updates tables by rows")
    add(
        "--schedule",
        default="constant",
        choices=SCHEDULES,
        help="of the rates; cosine: down to zero over all epochs",
    )
    add("--table_learning_rate", type=float, help="of tables, if not --learning_rate")
    add("--clip_norm", type=float, default=0.0, help="bound of all gradients' norm; 0: none")
    add("--weight_decay", type=float, default=0.0, help="decoupled; of tables, rows in the batch")
    add("--dropout", type=float, default=0.0, help="of the head's hidden layers, in training")
    add("--auxiliary_weight", type=float, default=1.0, help="of the whole-history loss; 0: off")


def main(argv: list[str] | None = None) -> int:
    """``tfdare train``."""
    parser = Parser(
        "train",
        "tfdare train --sequences build/sequences --model DARE --output build/dare",
        "Trains a model, keeps the epoch with the best validation AUC, evaluates it. "
        "Writes model.keras and metrics.json. Called again after a kill, it resumes.",
    )
    add = parser.add_argument
    add("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    add("--output", required=True, help="folder for the run")
    add("--model", default="DARE", choices=sorted(MODELS), help="which published model")
    add("--attention_dim", type=int, default=16, help="K_A, columns per attention table")
    add("--representation_dim", type=int, default=16, help="K_R, columns per representation table")
    add("--learning_rate", type=float, default=0.01, help="at the start")
    add_options(parser, epochs=2, patience=0)
    add("--seed", type=int, default=1, help="of initial weights and shuffling")
    add(
        "--warm_start",
        metavar="RUN",
        help="finished run to start from, on the same vocabularies or ones that grew by appending",
    )
    add("--overwrite", action="store_true", help="replace a run that is already at --output")

    def action(options):
        metrics = train(**vars(options))
        for split in ("validation", "test"):
            print(f"{options.model}, {split}")
            print(summary(metrics[split]))
        done, pace = metrics["training"], metrics["training"]["examples_per_s"]
        print(
            f"best epoch {done['best_epoch']} of {done['epochs_run']}; "
            f"{'' if pace is None else f'{pace:,} examples/s; '}run kept at {options.output}"
        )

    return run(parser, argv, action)
