"""``tfdare renew-attention``: newer vectors for a trained run, without training."""

from __future__ import annotations

from tfdare.commands.parser import Parser, run
from tfdare.training import renew_attention


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare renew-attention``; returns the exit code."""
    parser = Parser(
        "renew-attention",
        "tfdare renew-attention --run build/dare --vectors build/tonight --output build/dare-2",
        "Writes a run whose attention tables hold newer vectors; everything that was learned stays "
        "as it is. `tfdare export --run OUTPUT --only search` then publishes its search "
        "servable alone. Vectors of the same ids: `tfdare prepare ... --vocabulary_from "
        "FOLDER`, or `--since FOLDER` where new ids are to be searched, too.",
    )
    add = parser.add_argument
    add("--run", required=True, help="folder that `tfdare train` wrote, of a DARE")
    add(
        "--vectors",
        required=True,
        help="folder that `tfdare prepare` or `python -m beam_jobs.vectors` wrote",
    )
    add("--output", required=True, help="folder for the new run")
    add("--overwrite", action="store_true", help="replace a run that is already at --output")

    def action(options):
        features = renew_attention(**vars(options))
        for name, numbers in features.items():
            print(
                f"{name}: {numbers['new_ids']:,} new ids; inner products of two ids changed by "
                f"{numbers['changed']:.4f} on average"
            )
        print(f"run kept at {options.output}")

    return run(parser, argv, action)
