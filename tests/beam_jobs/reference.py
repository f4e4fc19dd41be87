"""The sequences of a log, in plain Python: slow, and written without a look at the pipeline."""

from collections import Counter


def held_out(length, fraction=0.1, least=2, most=30):
    """Lists of validation and test positions under last_fraction."""
    tests = max(least, min(most, int(length * fraction + 1e-9)))
    validations = max(1, tests // 3)
    test = list(range(length - tests, length))
    return list(range(length - tests - validations, length - tests)), test


def sequences(
    rows,
    min_events,
    train_start,
    train_stride=3,
    min_count=1,
    keep_duplicates=False,
    coarse_clock=False,
):
    """Computes the pipeline's output, without negatives, from (user, item, category, time) rows.

    Returns:
        Vocabularies (lists of (id, count)), records by (user, split), and the users' own items.
    """
    seen, users = set(), {}
    for number, row in enumerate(rows):
        if row in seen and not keep_duplicates:
            continue
        seen.add(row)
        users.setdefault(str(row[0]), []).append((row[3], number, row[1], row[2]))
    users = {user: sorted(events) for user, events in users.items() if len(events) >= min_events}
    training = []
    for events in users.values():
        validation, _ = held_out(len(events))
        training += events[: validation[0]]
    own = {}
    for _, _, item, category in sorted(training):
        own.setdefault(item, category)
    vocabularies = {}
    for name, values in {
        "item": [item for _, _, item, _ in training],
        "category": [own[item] for _, _, item, _ in training],
    }.items():
        pairs = [pair for pair in Counter(values).items() if pair[1] >= min_count]
        vocabularies[name] = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    row = {
        name: {raw: position + 2 for position, (raw, _) in enumerate(pairs)}
        for name, pairs in vocabularies.items()
    }
    records = {}
    for user, events in users.items():
        items = [row["item"].get(item, 1) for _, _, item, _ in events]
        categories = [row["category"].get(own.get(item, c), 1) for _, _, item, c in events]
        validation, test = held_out(len(events))
        train = list(range(train_start, validation[0], train_stride))
        for split, positions in (("train", train), ("validation", validation), ("test", test)):
            times = [time for time, *_ in events]
            seen = [
                position if coarse_clock else sum(time < times[position] for time in times)
                for position in positions
            ]
            positions = [position for position, before in zip(positions, seen) if before]
            seen = [before for before in seen if before]
            if positions:
                last = seen[-1]
                records[user, split] = {
                    "position": seen,
                    "history_item": items[:last],
                    "history_category": categories[:last],
                    "time": times[:last],
                    "target": [(items[p], categories[p]) for p in positions],
                }
    touched = {user: {item for _, _, item, _ in events} for user, events in users.items()}
    return vocabularies, records, touched, own
