"""Options for tags, context, numbers and time gaps, against a plain reading of the same log."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.histories.sort import DUPLICATE
from tests.beam_jobs import reference
from tests.beam_jobs.conftest import SMALL, csv_text
from tests.beam_jobs.reading.test_bad_input import refused
from tests.beam_jobs.test_build_sequences import BUNDLES, check_sums, read_back, same_sequences
from tfdare.schema import CategoricalContext, NumericContext, TimeGap

HEADER = "user,item,category,time,labels,town,cost"
COLUMNS = ("--columns", "tags=labels", "--multi_hot", "tags=3")
CONTEXT = (
    "--context",
    "hour=hour_of_day",
    "city=town",
    "weekday=day_of_week",
    "--numeric",
    "price=cost",
)
OPTIONS = (*SMALL, *COLUMNS, *CONTEXT, "--time_gap", "60", "--duplicates", "keep")
NAMES = ("item", "category", "tags")


def made_up(users=8, items=30, seed=3):
    """Draws rows with 0 to 5 tags, a town and a cost, some empty; times within two weeks."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for _ in range(int(random.integers(12, 40))):
            item = int(random.zipf(1.4)) % items
            tags = random.integers(0, 9, int(random.integers(0, 6))).tolist()
            town = random.choice(["", "7", "8", "900"])
            cost = random.choice(["", "3", "0.1", "-2.5e1", ".5", "7."])
            time = 1_600_000_000 + int(random.integers(0, 14 * 86400))
            text = "|".join(map(str, tags))
            rows.append((f"u{user}", item * 7, item % 5, time, text, town, cost))
    return rows


def write(path, rows):
    path.write_text(csv_text(rows, HEADER))
    return path


def learn(values, more=()):
    """Assigns vocabulary rows to values, most frequent first."""
    counts = Counter(value for value in values if value != "")
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {raw: index + 2 for index, (raw, _) in enumerate(ordered)}


def hour_and_day(row):
    return row[3] // 3600 % 24, (row[3] // 86400 + 3) % 7


@pytest.fixture(scope="module")
def rows():
    return made_up()


def test_equals_a_plain_reading(prepare, tmp_path, rows):
    outcome = prepare(write(tmp_path / "log.csv", rows), *OPTIONS)
    assert outcome.code == 0, outcome.err
    users = {}
    for number, row in enumerate(rows):
        users.setdefault(row[0], []).append((row[3], number, row))
    users = {user: [row for *_, row in sorted(read)] for user, read in users.items()}
    training = [
        row for read in users.values() for row in read[: reference.held_out(len(read))[0][0]]
    ]
    tags_of = lambda row: [int(tag) for tag in row[4].split("|") if tag][:3]
    own = {}
    for row in sorted(training, key=lambda row: (row[3], rows.index(row))):
        if row[1] not in own or not own[row[1]]:
            own[row[1]] = tags_of(row)
    tag_row = learn([tag for row in training for tag in own[row[1]]])
    city_row = learn([int(row[5]) for row in training if row[5]])
    hour_row = learn([hour_and_day(row)[0] for row in training])
    day_row = learn([hour_and_day(row)[1] for row in training])
    costs = np.array([float(row[6]) for row in training if row[6]], np.float32).astype(np.float64)

    def padded(row):
        read = [tag_row.get(tag, 1) for tag in own.get(row[1], tags_of(row))]
        return read + [0] * (3 - len(read))

    schema = outcome.sequences.schema
    assert schema.names == NAMES and [f.max_values for f in schema.features] == [1, 1, 3]
    assert schema.time_gap == TimeGap(unit=60)
    hour, city, weekday, price = schema.context
    assert [(part.name, part.vocabulary_size) for part in (hour, city, weekday)] == [
        ("hour", len(hour_row) + 2),
        ("city", len(city_row) + 2),
        ("weekday", len(day_row) + 2),
    ]
    assert isinstance(city, CategoricalContext) and city.vocabulary == "vocabulary/city.tsv"
    assert isinstance(price, NumericContext)
    assert price.mean == pytest.approx(costs.mean(), rel=1e-12)
    assert price.deviation == pytest.approx(costs.std(), rel=1e-12)
    assert outcome.sequences.vocabulary("city").tolist() == list(city_row)
    assert outcome.sequences.vocabulary("tags").tolist() == list(tag_row)
    read = read_back(outcome.sequences)
    assert len(read) > 15
    unknown = 0
    for (user, _split), record in read.items():
        events = users[user]
        seen, targets = events[: record.position[-1]], [events[p] for p in record.position]
        assert record.history["tags"].reshape(-1, 3).tolist() == [padded(row) for row in seen]
        first = np.cumsum(record.target_length) - record.target_length
        tags = record.target["tags"].reshape(-1, 3)
        assert tags[first].tolist() == [padded(row) for row in targets]
        assert len(tags) == len(record.label)
        assert record.request_time.tolist() == [row[3] for row in targets]
        context = {name: values.tolist() for name, values in record.context.items()}
        assert context["hour"] == [hour_row.get(hour_and_day(row)[0], 1) for row in targets]
        assert context["weekday"] == [day_row.get(hour_and_day(row)[1], 1) for row in targets]
        assert context["city"] == [city_row.get(int(row[5] or -1), 1) for row in targets]
        costs = [np.float32(row[6] or "nan") for row in targets]
        assert np.array_equal(record.context["price"], costs, equal_nan=True)
        unknown += np.isnan(costs).sum() + context["city"].count(1)
    assert unknown > 10
    manifest = outcome.manifest
    check_sums(manifest)
    cut = sum(max(0, len(row[4].split("|")) - 3) for row in rows)
    assert manifest["counts"]["values_cut"] == {"tags": cut} and cut > 20
    assert set(manifest["vocabularies"]) == {*NAMES, "hour", "city", "weekday"}
    assert manifest["digests"]["vocabularies"]["city"] == city.digest
    assert manifest["numeric"]["price"]["events"] == sum(1 for row in training if row[6])
    settings = {
        "multi_hot": {"tags": 3},
        "numeric": {"price": "cost"},
        "time_gap": 60,
        "context": {"hour": "hour_of_day", "city": "town", "weekday": "day_of_week"},
    }
    assert {name: schema.split[name] for name in settings} == settings
    assert f"cut         {cut} values of tags" in outcome.out
    assert "number      price: mean" in outcome.out


def test_same_from_every_kind_of_file_and_runner(prepare, tmp_path, rows):
    first = prepare(write(tmp_path / "log.csv", rows), *OPTIONS)
    assert first.code == 0, first.err
    more = ("--buckets", "5", "--chunk_bytes", "900")
    again = prepare(tmp_path / "log.csv", *OPTIONS, *more, *BUNDLES, output="again")
    assert same_sequences(first.manifest, again.manifest)
    quoted = [(*row[:4], f'"{row[4]}"', *row[5:]) if n % 3 else row for n, row in enumerate(rows)]
    again = prepare(write(tmp_path / "quoted.csv", quoted), *OPTIONS, output="quoted")
    assert same_sequences(first.manifest, again.manifest)
    users, items, categories, times, labels, towns, costs = zip(*rows)
    tags = [[int(tag) for tag in text.split("|") if tag] or None for text in labels]
    table = pa.table(
        {
            "user": users,
            "item": items,
            "category": categories,
            "time": times,
            "labels": tags,
            "town": [int(town) if town else None for town in towns],
            "cost": [float(cost) if cost else None for cost in costs],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=40)
    again = prepare(tmp_path / "log.parquet", *OPTIONS, form="parquet", output="parquet")
    assert again.code == 0, again.err
    assert same_sequences(first.manifest, again.manifest)
    large = table.set_column(4, "labels", table["labels"].cast(pa.large_list(pa.int32())))
    large = large.set_column(6, "cost", pa.array([cost or None for cost in costs]))
    pq.write_table(large, tmp_path / "large.parquet")
    again = prepare(tmp_path / "large.parquet", *OPTIONS, form="parquet", output="large")
    assert same_sequences(first.manifest, again.manifest)


def test_without_the_options_nothing_of_it_is_there(prepare, tmp_path, rows):
    path = write(tmp_path / "log.csv", rows)
    plain = prepare(path, *SMALL, "--duplicates", "keep")
    schema, manifest = plain.sequences.schema, plain.manifest
    assert schema.context == () and schema.time_gap is None
    assert "values_cut" not in manifest["counts"] and "numeric" not in manifest
    assert not {"multi_hot", "context", "numeric", "time_gap"} & set(schema.split)
    rich = prepare(path, *OPTIONS, output="rich")
    for name in ("item", "category"):
        assert np.array_equal(plain.sequences.vocabulary(name), rich.sequences.vocabulary(name))
    for key, record in read_back(plain.sequences).items():
        other = read_back(rich.sequences)[key]
        assert record.context == {}
        assert record.request_time.tolist() == other.request_time.tolist()
        for name in ("item", "category"):  # the negatives too
            assert record.target[name].tolist() == other.target[name].tolist()


def test_an_hour_and_a_time_gap_need_no_columns(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("".join(f"1,{t % 4},5,pv,{t * 3600}\n" for t in range(30)))
    outcome = prepare(
        path, *SMALL, "--context", "hour=hour_of_day", "--time_gap", "1", form="taobao"
    )
    assert outcome.code == 0, outcome.err
    (test,) = outcome.sequences.records("test")
    raw = outcome.sequences.vocabulary("hour")
    assert raw[test.context["hour"] - 2].tolist() == [t % 24 for t in test.position.tolist()]
    assert outcome.sequences.schema.time_gap.unit == 1


BAD = {
    3: ("u1,1,1,4,1|x,1,1", "tags is not an integer"),
    4: ("u1,1,1,4,1||2,1,1", "tags has an empty value among others"),
    5: ("u1,1,1,4,3|,1,1", "tags has an empty value among others"),
    6: ("u1,1,1,4,-3,1,1", "tags is negative"),
    8: ("u1,1,1,4,1,here,1", "city is not an integer"),
    9: ("u1,1,1,4,1,-1,1", "city is negative"),
    10: ("u1,1,1,4,1,1,abc", "price is not a number"),
    11: ("u1,1,1,4,1,1,many", "price is not a number"),
    12: ("u1,1,1,4,1,1,1e39", "price is larger than 3.4e+38"),
    13: ("u1,1,1,4,1,1, 5", "price is not a number"),
    14: ("u1,1,1,4,1,1,1e999", "price is larger than 3.4e+38"),
    16: ("u1,1,1,4,1,1", "6 columns instead of 7"),
    17: ("u1,1,,4,x,y,z", "category is empty"),
}


@pytest.mark.parametrize("chunk_bytes", ["64000", "41"])
def test_rejected_rows_with_exact_lines(prepare, tmp_path, chunk_bytes):
    lines = [HEADER]
    for number in range(2, 60):
        good = f"u{number % 2},{number},1,{number},{number % 3}|4,5,"
        lines.append(BAD[number][0] if number in BAD else good + "1.5" * (number % 4 > 0))
    lines[39] = lines[35]  # line 40 repeats line 36, whose price is empty
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines))
    options = [option for option in OPTIONS if option != "keep"][:-1]
    outcome = prepare(path, *options, "--chunk_bytes", chunk_bytes)
    assert outcome.code == 0, outcome.err
    rejected = {row["line"]: (row["row"], row["reason"]) for row in outcome.rejected}
    again = "u0,36,1,36,0|4,5,"
    assert rejected.pop(40)[1] == DUPLICATE and lines[39] == again
    assert rejected == BAD
    check_sums(outcome.manifest)


def test_rows_that_differ_in_context_are_no_duplicates(prepare, tmp_path):
    rows = [("a", n, 1, n, "1|2", "5", "1.5") for n in range(12)]
    rows += [
        ("a", 3, 1, 3, "1|2", "6", "1.5"),
        ("a", 3, 1, 3, "2|1", "5", "1.5"),
        ("a", 3, 1, 3, "1|2", "5", ""),
        ("a", 3, 1, 3, "1|2", "5", "1.50"),
    ]
    outcome = prepare(write(tmp_path / "log.csv", rows), *OPTIONS[:-2])
    assert outcome.code == 0, outcome.err
    assert [(row["line"], row["row"]) for row in outcome.rejected] == [(17, "a,3,1,1|2,3,5,1.5")]


@pytest.mark.parametrize(
    "more, words",
    [
        (("--context", "city=nowhere"), ["missing columns: nowhere", "labels, town, cost"]),
        (("--numeric", "price=nowhere"), ["missing columns: nowhere"]),
        (("--multi_hot", "tags=3"), ["'tags' is no feature", "--columns tags=", "item, category"]),
        (("--multi_hot", "item=3"), ["'item' is no feature beside the item"]),
        (("--multi_hot", "category=0"), ["2 or more", "category=0"]),
        (("--multi_hot", "category=1"), ["category=1"]),
        (("--multi_hot", "category=-2"), ["category=-2"]),
        (("--multi_hot", "category=x"), ["category=x"]),
        (("--multi_hot", "category"), ["name=value", "'category'"]),
        (("--context", "=town"), ["'=town'"]),
        (("--context", "City=town"), ["name='City'"]),
        (("--context", "item=town"), ["'item' is taken"]),
        (("--context", "user=town"), ["'user' is taken"]),
        (("--context", "behavior=town"), ["'behavior' is taken"]),
        (("--context", "a=town", "a=cost"), ["'a' is there twice"]),
        (("--context", "a=hour_of_day", "--numeric", "a=cost"), ["'a' is taken"]),
        (("--numeric", "position=cost"), ["name='position'"]),
        (("--time_gap", "0"), ["--time_gap", "unit=0"]),
        (("--time_gap", "soon"), ["soon"]),
    ],
)
def test_options_that_do_not_fit(prepare, tmp_path, rows, more, words):
    refused(prepare(write(tmp_path / "log.csv", rows[:9]), *SMALL, *more), *words)


@pytest.mark.parametrize(
    "form, more, words",
    [
        ("taobao", ("--numeric", "price=cost"), ["--format taobao has fixed columns"]),
        ("taobao", ("--context", "city=town"), ["--format taobao has fixed columns"]),
        ("tmall", ("--multi_hot", "brand=3"), ["--format tmall has fixed columns"]),
        ("tmall", ("--context", "hour=hour_of_day"), ["tmall have no hour_of_day", "hour"]),
    ],
)
def test_other_formats_have_no_such_columns(prepare, log, form, more, words):
    refused(prepare(log, *more, form=form), *words)


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("labels", [True], ["'labels' (tags)", "lists of integers"]),
        ("labels", [[True]], ["'labels' (tags)", "lists of integers"]),
        ("town", [[5]], ["'town' (city)", "list<"]),
        ("cost", [[5]], ["'cost' (price)", "numbers or text"]),
        ("cost", [True], ["'cost' (price)", "bool"]),
    ],
)
def test_wrong_types_of_parquet(prepare, tmp_path, column, value, words):
    columns = {
        "user": [1],
        "item": [2],
        "category": [1],
        "time": [1],
        "labels": [[1]],
        "town": [1],
        "cost": [1.5],
        column: value,
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    outcome = prepare(tmp_path / "log.parquet", *OPTIONS, form="parquet")
    refused(outcome, *words)
