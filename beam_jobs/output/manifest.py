"""``schema.json`` and ``manifest.json``, and the check that a run left something to use."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.io.filesystems import FileSystems

import tfdare
from beam_jobs.histories.impressions import IMPRESSIONS
from beam_jobs.options import Options
from beam_jobs.output.write import REJECTED_FOLDER
from beam_jobs.reading.inputs import InputFile
from beam_jobs.reading.rows import VALUES_CUT
from beam_jobs.requests.build import LONGEST_REQUEST
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.storage import open_file
from beam_jobs.shared.tallies import DAMAGED
from beam_jobs.vocabulary.learn import VOCABULARY_FOLDER
from tfdare.schema import CategoricalContext, Feature, NumericContext, Schema
from tfdare.sequences import SPLITS

_REASON = "rows_rejected/"
_SHOWN = 3


def counts_of(tally: Mapping[str, int]) -> dict[str, Any]:
    """The tally as the ``counts`` of the manifest."""
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
            split: {part: tally.get(f"{split}/{part}", 0) for part in parts} for split in SPLITS
        },
        **({"impressions": _impressions(tally)} if f"{IMPRESSIONS}rows_read" in tally else {}),
    }


def _reasons(tally: Mapping[str, int], start: str) -> dict[str, int]:
    found = [(name[len(start) :], n) for name, n in tally.items() if name.startswith(start)]
    return dict(sorted(found, key=lambda pair: (-pair[1], pair[0])))


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
    """Refuses a run that could not read its input, or that left nothing.

    Raises:
        InputError: a file is damaged, or no row, or no user, is left.
        RuntimeError: the sums do not agree.
    """
    if damaged := sorted(name[len(DAMAGED) :] for name in tally if name.startswith(DAMAGED)):
        raise InputError("\n  ".join(damaged))
    counts = counts_of(tally)
    rows, users, events = counts["rows"], counts["users"], counts["events"]
    if rows["kept"] == 0:
        if rows["read"] == 0:
            raise InputError(f"No rows in {', '.join(options.input)}: nothing but a header")
        text = f"No row is left of the {rows['read']:,} read: {rows['rejected']:,} were rejected"
        if rows["filtered"]:
            kept = ", ".join(options.form.behaviors or ())
            text += f", {rows['filtered']:,} are of other behaviors than {kept}"
        raise InputError("\n  ".join([text + ".", *_first_rejected(folder)]))
    for what, some in (("rows", rows), ("rows of impressions", counts.get("impressions"))):
        share = some["rejected"] / some["read"] if some and some["read"] else 0.0
        if share > options.max_rejected_fraction:
            text = (
                f"{some['rejected']:,} of {some['read']:,} {what} were rejected, {share:.2%}; "
                f"--max_rejected_fraction is {options.max_rejected_fraction}"
            )
            reasons = [
                f"{count:,} {reason}" for reason, count in some["rejected_by_reason"].items()
            ][:_SHOWN]
            raise InputError("\n  ".join([text, *reasons, *_first_rejected(folder)]))
    if users["kept"] == 0:
        text = (
            f"No user is long enough: the longest history has {events['longest_history']:,} "
            f"events; --min_events is {options.min_events}"
        )
        if rows["rejected"]:
            text += f". {rows['rejected']:,} rows were rejected:"
        raise InputError("\n  ".join([text, *_first_rejected(folder)]))
    shown = counts.get("impressions")
    if shown and not shown["kept"]:
        raise InputError(
            f"No impression is left of the {shown['read']:,} read: {shown['rejected']:,} were "
            f"rejected, {shown['of_other_users']:,} are of users without {options.min_events} "
            f"behaviors, {shown['without_history']:,} came before any behavior"
        )
    sums = {
        **(
            {
                "impressions": shown["read"]
                == sum(
                    shown[part]
                    for part in ("rejected", "cut", "of_other_users", "without_history", "kept")
                )
            }
            if shown
            else {}
        ),
        "rows": rows["read"] + rows.get("carried", 0)
        == sum(rows[part] for part in ("filtered", "rejected", "cut", "kept")),
        "users": users["seen"] == users["kept"] + users["too_short"],
        "events": rows["kept"] == events["kept"] + events["too_short"],
        **{
            split: part["candidates"] == part["positives"] + part["negatives"]
            for split, part in counts["splits"].items()
        },
    }
    if wrong := [name for name, fine in sums.items() if not fine]:
        raise RuntimeError(f"Counts do not add up ({', '.join(wrong)}): {json.dumps(counts)}")


def make_schema(options: Options, learned: Mapping[str, Any], tally: Mapping[str, int]) -> Schema:
    """The schema of the sequences."""
    form, context = options.form, options.context_form
    candidates = 1 + options.sampling.negatives
    if options.impressions:
        candidates = max(tally.get(LONGEST_REQUEST, 0), 1)

    def vocabulary(name: str) -> dict[str, Any]:
        part = learned["vocabularies"][name]
        if "hash_buckets" in part:
            return {"vocabulary_size": part["size"], "hash_buckets": part["hash_buckets"]}
        return {
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
    )


def make_manifest(
    options: Options,
    files: Sequence[InputFile],
    buckets: int,
    tally: Mapping[str, int],
    learned: Mapping[str, Any],
    schema: Schema,
    seconds: float,
) -> dict[str, Any]:
    """All that a reader may want to know of the run."""
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
                    what: part[what]
                    for what in ("hash_buckets", "ids", "ids_sharing_a_row", "ids_expected_to")
                    if what in part
                },
            }
            for name, part in learned["vocabularies"].items()
        },
        **({"numeric": learned["numeric"]} if learned["numeric"] else {}),
        "training_period": {"items": learned["items"], "events": learned["events"]},
        "options": {
            "format": options.form.kind,
            "columns": {name: list(found) for name, found in options.form.columns.items()},
            "window": options.window,
            "buckets": buckets,
            "chunk_bytes": options.chunk_bytes,
            **options.split,
        },
        "input": [{"file": f.path, "bytes": f.size, "kind": f.kind} for f in files],
    }


def summary(manifest: Mapping[str, Any], output: str) -> str:
    """A few lines for a person."""
    counts = manifest["counts"]
    rows, users = counts["rows"], counts["users"]
    lines = [
        f"rows        {rows['read']:,} read, {rows['filtered']:,} of other behaviors, "
        f"{rows['rejected']:,} rejected, {rows['kept']:,} kept"
    ]
    for reason, count in list(rows["rejected_by_reason"].items())[:10]:
        lines.append(f"  rejected  {count:,} {reason}")
    if rows["rejected"]:
        lines.append(f"  see       {output}/{REJECTED_FOLDER}/*.jsonl")
    if "carried" in rows:
        lines.append(f"carried     {rows['carried']:,} events of the earlier run")
    if rows["cut"]:
        lines.append(f"cut         {rows['cut']:,} rows older than the newest that a user may have")
    if shown := counts.get("impressions"):
        lines.append(
            f"impressions {shown['read']:,} read, {shown['rejected']:,} rejected, "
            f"{shown['of_other_users']:,} of other users, {shown['without_history']:,} without "
            f"history, {shown['kept']:,} kept"
        )
    lines.append(f"users       {users['kept']:,} kept, {users['too_short']:,} too short")
    for split, part in counts["splits"].items():
        short = part["requests_short_of_negatives"]
        lines.append(
            f"{split:<11} {part['requests']:,} requests of {part['users']:,} users, "
            f"{part['candidates']:,} candidates"
            + (f", {short:,} requests short of negatives" if short else "")
        )
    sizes = ", ".join(f"{name} {part['size']:,}" for name, part in manifest["vocabularies"].items())
    lines.append(f"vocabulary  {sizes} (padding and unknown included)")
    for name, part in manifest["vocabularies"].items():
        if "hash_buckets" in part:
            lines.append(
                f"hashed      {name}: {part['ids']:,} ids in {part['hash_buckets']:,} rows, "
                f"{part['ids_sharing_a_row']:.2%} share theirs ({part['ids_expected_to']:.2%} "
                "expected)"
            )
    for name, part in manifest.get("numeric", {}).items():
        lines.append(
            f"number      {name}: mean {part['mean']:.6g}, deviation {part['deviation']:.6g}"
        )
    for name, count in counts.get("values_cut", {}).items():
        lines.append(f"cut         {count:,} values of {name} beyond those kept of a row")
    speed = rows["read"] / max(manifest["seconds"], 0.1)
    lines.append(f"time        {manifest['seconds']:,} s, {speed:,.0f} rows a second")
    lines.append(f"sequences   {output}")
    return "\n".join(lines)


def _first_rejected(folder: str) -> list[str]:
    (match,) = FileSystems.match([f"{folder}/{REJECTED_FOLDER}/*.jsonl"])
    shown: list[str] = []
    for path in sorted(entry.path for entry in match.metadata_list):
        with open_file(path) as file:
            for line in file.read(1 << 16).decode("utf-8", "ignore").splitlines()[:_SHOWN]:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # a very long row, cut by the read above
                shown.append(f"{row['file']}:{row['line']}: {row['reason']}: {row['row'][:120]}")
        if len(shown) >= _SHOWN:
            break
    return shown[:_SHOWN]
