"""Makes ``schema.json`` and ``manifest.json``, and checks the counts of a run."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.io.filesystems import FileSystems

import tfdare
from beam_jobs.cooccurrence.learn import describe
from beam_jobs.histories.impressions import IMPRESSIONS
from beam_jobs.histories.sort import DUPLICATE
from beam_jobs.options import Options
from beam_jobs.output.write import REJECTED_FOLDER
from beam_jobs.reading.first_rows import EXAMPLES, most_common
from beam_jobs.reading.inputs import InputFile
from beam_jobs.reading.rows import ROWS_OF_TYPE, VALUES_CUT
from beam_jobs.requests.build import LONGEST_REQUEST, WEIGHT_MILLIONTHS
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.progress import labeled
from beam_jobs.shared.storage import open_file
from beam_jobs.shared.tallies import DAMAGED
from beam_jobs.vocabulary.learn import VOCABULARY_FOLDER
from tfdare.schema import (
    INT64,
    STRING,
    CategoricalContext,
    Feature,
    NumericContext,
    Schema,
)
from tfdare.sequences import SPLITS

_REASON = "rows_rejected/"
TIME_UNIT = "time_unit"
"""Key of the manifest's options for the unit of times, in words."""


def counts_of(tally: Mapping[str, int]) -> dict[str, Any]:
    """Arranges a tally as the ``counts`` of the manifest."""
    reasons = _reasons(tally, _REASON)
    parts = (
        "users",
        "requests",
        "candidates",
        "positives",
        "negatives",
        "requests_short_of_negatives",
        "requests_without_history",
        "bytes",
    )
    cut = {name[len(VALUES_CUT) :]: n for name, n in tally.items() if name.startswith(VALUES_CUT)}
    return {
        **({"values_cut": dict(sorted(cut.items()))} if cut else {}),
        "rows": {
            "read": tally.get("rows_read", 0),
            "filtered": tally.get("rows_filtered", 0),
            "rejected": sum(reasons.values()),
            "rejected_by_reason": reasons,
            **({"carried": tally["rows_carried"]} if "rows_carried" in tally else {}),
            "cut": tally.get("rows_cut", 0),
            "kept": tally.get("rows_kept", 0),
        },
        "users": {name: tally.get(f"users_{name}", 0) for name in ("seen", "kept", "too_short")},
        "events": {
            "kept": tally.get("events_kept", 0),
            "too_short": tally.get("events_too_short", 0),
            "longest_history": tally.get("longest_history", 0),
        },
        "splits": {
            split: {part: tally.get(f"{split}/{part}", 0) for part in parts}
            | _weight_of(tally, split)
            for split in SPLITS
        },
        **({"impressions": _impressions(tally)} if f"{IMPRESSIONS}rows_read" in tally else {}),
    }


def _reasons(tally: Mapping[str, int], start: str) -> dict[str, int]:
    reasons = [(name[len(start) :], n) for name, n in tally.items() if name.startswith(start)]
    return dict(sorted(reasons, key=lambda pair: (-pair[1], pair[0])))


def _weight_of(tally: Mapping[str, int], split: str) -> dict[str, float]:
    """Returns the sum of the sample weights of a split, nothing where there are none."""
    millionths = tally.get(f"{split}/{WEIGHT_MILLIONTHS}")
    return {} if millionths is None else {"weight": millionths / 1e6}


def _impressions(tally: Mapping[str, int]) -> dict[str, Any]:
    reasons = _reasons(tally, IMPRESSIONS + _REASON)
    return {
        "read": tally.get(f"{IMPRESSIONS}rows_read", 0),
        "rejected": sum(reasons.values()),
        "rejected_by_reason": reasons,
        "cut": tally.get(f"{IMPRESSIONS}rows_cut", 0),
        "of_other_users": tally.get(f"{IMPRESSIONS}rows_of_other_users", 0),
        "without_history": sum(
            tally.get(f"{split}/candidates_without_history", 0) for split in SPLITS
        ),
        "kept": sum(tally.get(f"{split}/candidates", 0) for split in SPLITS),
    }


def check(tally: Mapping[str, int], options: Options, folder: str) -> None:
    """Checks that the input could be read, that rows and users are left, and that counts add up.

    Raises:
        InputError: a file is damaged, too many rows were rejected, or no row, user or impression
            is left.
        RuntimeError: the sums do not agree.
    """
    if damaged := sorted(name[len(DAMAGED) :] for name in tally if name.startswith(DAMAGED)):
        raise InputError("\n  ".join(damaged))
    counts = counts_of(tally)
    rows, users, events = counts["rows"], counts["users"], counts["events"]
    reasons = rows["rejected_by_reason"]
    if rows["kept"] == 0:
        if rows["read"] == 0:
            raise InputError(f"No rows in {', '.join(options.input)}: nothing but a header")
        text = f"No row is left of the {rows['read']:,} read: {rows['rejected']:,} were rejected"
        if rows["filtered"]:
            kept = ", ".join(options.form.behaviors or ())
            text += f", {rows['filtered']:,} are of other behaviors than {kept}"
        raise _with_reasons(text + ".", reasons, folder)
    impressions = counts.get("impressions")
    for title, part in (("rows", rows), ("rows of impressions", impressions or {"read": 0})):
        bad = part["rejected"] - part["rejected_by_reason"].get(DUPLICATE, 0) if part["read"] else 0
        share = bad / max(part["read"], 1)
        if share > options.max_rejected_fraction:
            text = (
                f"{bad:,} of {part['read']:,} {title} were rejected, {share:.2%}; "
                f"--max_rejected_fraction is {options.max_rejected_fraction}: give a larger one to "
                "go on without them"
            )
            raise _with_reasons(text, part["rejected_by_reason"], folder)
    if users["kept"] == 0:
        text = (
            f"No user is long enough: the longest history has {events['longest_history']:,} "
            f"events; --min_events is {options.min_events}"
        )
        if rows["rejected"]:
            text += f". {rows['rejected']:,} rows were rejected:"
        raise _with_reasons(text, reasons, folder)
    if impressions and not impressions["kept"]:
        reasons = impressions["rejected_by_reason"]
        text = (
            f"No impression is left of the {impressions['read']:,} read: "
            f"{impressions['rejected']:,} were rejected, {impressions['of_other_users']:,} are of "
            f"users without {options.min_events} behaviors, {impressions['without_history']:,} "
            "came before any behavior"
        )
        raise _with_reasons(text, reasons, folder)
    _check_negatives(counts["splits"], options)
    _check_weights(tally, counts["splits"], options)
    sums = {
        "rows": rows["read"] + rows.get("carried", 0)
        == sum(rows[part] for part in ("filtered", "rejected", "cut", "kept")),
        "users": users["seen"] == users["kept"] + users["too_short"],
        "events": rows["kept"] == events["kept"] + events["too_short"],
        **{
            split: part["candidates"] == part["positives"] + part["negatives"]
            for split, part in counts["splits"].items()
        },
    }
    if impressions:
        parts = ("rejected", "cut", "of_other_users", "without_history", "kept")
        sums["impressions"] = impressions["read"] == sum(impressions[part] for part in parts)
    if wrong := [name for name, fine in sums.items() if not fine]:
        raise RuntimeError(f"Counts do not add up ({', '.join(wrong)}): {json.dumps(counts)}")


def _check_negatives(splits: Mapping[str, Mapping[str, int]], options: Options) -> None:
    requests = sum(part["requests"] for part in splits.values())
    short = sum(part["requests_short_of_negatives"] for part in splits.values())
    if short > options.max_short_fraction * requests:
        raise InputError(
            f"{short:,} of {requests:,} requests, {short / requests:.1%}, have fewer than "
            f"--negatives {options.sampling.negatives}: their users have touched nearly every item "
            "of the training period. Lower --negatives, or give a larger --max_short_fraction; it "
            f"is {options.max_short_fraction}"
        )


def _check_weights(
    tally: Mapping[str, int], splits: Mapping[str, Mapping[str, float]], options: Options
) -> None:
    for name in options.form.weights:
        if not options.since and not tally.get(f"{ROWS_OF_TYPE}{name}"):
            raise InputError(
                f"--weights: no row is of the type {name!r}. Types are values of the column "
                f"{' or '.join(options.form.columns['behavior'])}"
            )
    for split, part in splits.items():
        if part["candidates"] and part.get("weight") == 0:
            raise InputError(
                f"All {part['candidates']:,} candidates of the {split} split have a weight of 0: "
                "nothing is left to learn from or to measure"
            )


def make_schema(options: Options, learned: Mapping[str, Any], tally: Mapping[str, int]) -> Schema:
    """Makes the schema of the sequences."""
    form, context = options.form, options.context_form
    candidates = 1 + options.sampling.negatives
    if options.impressions:
        candidates = max(tally.get(LONGEST_REQUEST, 0), 1)

    def vocabulary(name: str) -> dict[str, Any]:
        part = learned["vocabularies"][name]
        dtype = STRING if name in learned["text_ids"] else INT64
        if "hash_buckets" in part:
            buckets = part["hash_buckets"]
            return {"vocabulary_size": part["size"], "hash_buckets": buckets, "dtype": dtype}
        return {
            "dtype": dtype,
            "vocabulary_size": part["size"],
            "vocabulary": f"{VOCABULARY_FOLDER}/{name}.tsv",
            "digest": part["sha256"],
        }

    features = tuple(
        Feature(name, max_values=form.multi_hot.get(name, 1), **vocabulary(name))
        for name in form.features
    )
    categorical = [CategoricalContext(name, **vocabulary(name)) for name in context.context]
    numbers = learned["numeric"]
    numeric = [
        NumericContext(name, numbers[name]["mean"], numbers[name]["deviation"])
        for name in context.numeric
    ]
    return Schema(
        features=features,
        window=options.window,
        max_candidates=candidates,
        split=options.split,
        time_gap=options.time_gap,
        encoding=options.encoding,
        context=(*categorical, *numeric),
        sample_weights=context.weighted,
    )


def make_manifest(
    options: Options,
    files: Sequence[InputFile],
    buckets: int,
    tally: Mapping[str, int],
    learned: Mapping[str, Any],
    schema: Schema,
    seconds: float,
    vectors: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Makes the manifest of a run: code, counts, digests, vocabularies, vectors, options, input."""
    clock = options.form.clock
    return {
        "version": 1,
        "code": {"package": "tfdare", "version": tfdare.__version__},
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "schema_digest": schema.digest,
        "counts": counts_of(tally),
        "digests": {
            "records": {
                split: f"{tally.get(f'digest/{split}', 0) % 2**64:016x}" for split in SPLITS
            },
            "vocabularies": {
                name: part["sha256"]
                for name, part in learned["vocabularies"].items()
                if part["sha256"]
            },
        },
        "vocabularies": {
            name: {
                "size": part["size"],
                "training_events": part["events"],
                **{
                    key: part[key]
                    for key in ("hash_buckets", "ids", "ids_sharing_a_row", "ids_expected_to")
                    if key in part
                },
            }
            for name, part in learned["vocabularies"].items()
        },
        **({"numeric": learned["numeric"]} if learned["numeric"] else {}),
        "vectors": {name: vectors[name] for name in schema.names if name in vectors},
        "training_period": {"items": learned["items"], "events": learned["events"]},
        "options": {
            **options.form.settings,
            "window": options.window,
            "buckets": buckets,
            "chunk_bytes": options.chunk_bytes,
            **({TIME_UNIT: clock.name} if clock.known else {}),
            **({} if options.vectors.gap is None else {"gap": options.vectors.gap}),
            **options.split,
        },
        "input": [{"file": f.path, "bytes": f.size, "kind": f.kind} for f in files],
    }


def summary(manifest: Mapping[str, Any], output: str) -> str:
    """Describes a run in a few lines of text."""
    counts = manifest["counts"]
    rows, users, sizes = counts["rows"], counts["users"], manifest["vocabularies"]
    lines: list[tuple[str, str]] = [
        (
            "rows",
            f"{rows['read']:,} read, {rows['filtered']:,} of other behaviors, "
            f"{rows['rejected']:,} rejected, {rows['kept']:,} kept",
        )
    ]
    for reason, count in list(rows["rejected_by_reason"].items())[:10]:
        lines.append(("  rejected", f"{count:,} {reason}"))
    if rows["rejected"]:
        lines.append(("  see", f"{output}/{REJECTED_FOLDER}/*.jsonl"))
    if TIME_UNIT in manifest["options"]:
        lines.append(("times", manifest["options"][TIME_UNIT]))
    if "carried" in rows:
        lines.append(("carried", f"{rows['carried']:,} events of the earlier run"))
    if rows["cut"]:
        lines.append(("cut", f"{rows['cut']:,} rows older than the newest that a user may have"))
    if part := counts.get("impressions"):
        lines.append(
            (
                "impressions",
                f"{part['read']:,} read, {part['rejected']:,} rejected, "
                f"{part['of_other_users']:,} of other users, {part['without_history']:,} without "
                f"history, {part['kept']:,} kept",
            )
        )
    lines.append(("users", f"{users['kept']:,} kept, {users['too_short']:,} too short"))
    for split, part in counts["splits"].items():
        short = part["requests_short_of_negatives"]
        text = (
            f"{part['requests']:,} requests of {part['users']:,} users, "
            f"{part['candidates']:,} candidates"
        )
        if "weight" in part:
            text += f", mean weight {part['weight'] / max(part['candidates'], 1):.4g}"
        lines.append((split, text + (f", {short:,} requests short of negatives" if short else "")))
    text = ", ".join(f"{name} {part['size']:,}" for name, part in sizes.items())
    lines.append(("vocabulary", f"{text} (padding and unknown included)"))
    for name, part in sizes.items():
        if "hash_buckets" in part:
            text = (
                f"{name}: {part['ids']:,} ids in {part['hash_buckets']:,} rows, "
                f"{part['ids_sharing_a_row']:.2%} share theirs ({part['ids_expected_to']:.2%} "
                "expected)"
            )
            lines.append(("hashed", text))
    for name, part in manifest.get("numeric", {}).items():
        text = f"{name}: mean {part['mean']:.6g}, deviation {part['deviation']:.6g}"
        lines.append(("number", text))
    lines += describe(manifest.get("vectors", {}))
    for name, count in counts.get("values_cut", {}).items():
        if count:
            lines.append(("cut", f"{count:,} values of {name} beyond those kept per row"))
    speed = rows["read"] / max(manifest["seconds"], 0.1)
    lines.append(("time", f"{manifest['seconds']:,} s, {speed:,.0f} rows a second"))
    lines.append(("sequences", output))
    return "\n".join(labeled(*line) for line in lines)


def _with_reasons(text: str, reasons: Mapping[str, int], folder: str) -> InputError:
    """Adds the commonest reasons, and the first rows rejected for them, to a message."""
    lines = [text, *most_common(reasons), *_first_rejected(folder, reasons)]
    return InputError("\n  ".join(lines))


def _first_rejected(folder: str, reasons: Mapping[str, int]) -> list[str]:
    """Returns the first rows that were rejected for one of the reasons, for messages."""
    (match,) = FileSystems.match([f"{folder}/{REJECTED_FOLDER}/*.jsonl"])
    rows: list[str] = []
    for path in sorted(entry.path for entry in match.metadata_list):
        with open_file(path) as file:
            for line in file.read(1 << 16).decode("utf-8", "ignore").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # a very long row, cut by the read above
                if row["reason"] in reasons and row["reason"] != DUPLICATE:
                    rows.append(f"{row['file']}:{row['line']}: {row['reason']}: {row['row'][:120]}")
        if len(rows) >= EXAMPLES:
            break
    return rows[:EXAMPLES]
