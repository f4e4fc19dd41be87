"""Files as they lie: parts, folders, compression, delimiters; the same rows however they come."""

import bz2
import gzip
import itertools
import json
import lzma

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from beam_jobs.reading.formats import make_format, parse_delimiter
from beam_jobs.reading.inputs import find_files, plan
from beam_jobs.shared.errors import InputError
from tests.beam_jobs.conftest import SMALL, csv_text, made_up_rows
from tests.beam_jobs.reading.test_bad_input import refused
from tests.beam_jobs.reading.test_inputs import read

NAMES = ("user", "item", "category", "time")
ROWS = [(f"u{n % 7}", n, n % 3, 1000 + n) for n in range(60)]
FORMATS = ("csv", "jsonl", "parquet", "avro")
PACK = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def write(path, form, rows, names=NAMES):
    """Writes rows in a format; the names of columns in another order are given."""
    records = [{name: row[NAMES.index(name)] for name in names} for row in rows]
    if form == "csv":
        lines = [",".join(names), *(",".join(map(str, record.values())) for record in records)]
        path.write_text("\n".join(lines) + "\n")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif form == "parquet":
        columns = {name: [record[name] for record in records] for name in names}
        kinds = {name: pa.string() if name == "user" else pa.int64() for name in names}
        pq.write_table(pa.table(columns, schema=pa.schema(kinds.items())), path)
    else:
        kinds = {name: "string" if name == "user" else "long" for name in names}
        fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
        with open(path, "wb") as file:
            fastavro.writer(file, {"type": "record", "name": "e", "fields": fields}, records)


def rows_of(pattern, form, chunk_bytes=1 << 20):
    """Reads files: their rows without line numbers, none rejected."""
    good, bad, _ = read(pattern, form, chunk_bytes)
    assert not bad
    return sorted(row[1:] for row in good)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_no_data_is_passed_over(tmp_path, form):
    for name in ("a/b", "_temporary/0", ".ipynb_checkpoints"):
        (tmp_path / "log" / name).mkdir(parents=True)
        write(tmp_path / "log" / name / "part", form, ROWS[40:])
    write(tmp_path / "log" / "part-0", form, ROWS[:40], NAMES[::-1])
    write(tmp_path / "log" / "part-1", form, [])  # nothing but a header
    for name in ("_SUCCESS", "part-2", ".part-0.crc", "_committed_1", "a/_SUCCESS"):
        (tmp_path / "log" / name).write_bytes(b"not a row" if name[0] in "._" else b"")
    kind = make_format(form, None, None)
    assert rows_of(tmp_path / "log", kind) == sorted(ROWS)
    assert rows_of(f"{tmp_path}/lo?/**", kind) == sorted(ROWS)
    assert rows_of(f"{tmp_path}/log/*", kind) == sorted(ROWS[:40])
    assert rows_of(f"{tmp_path}/log/a*", kind) == sorted(ROWS[40:])  # a folder that matches
    assert rows_of(tmp_path / "log/_temporary/0/part", kind) == sorted(ROWS[40:])  # in full
    with pytest.raises(InputError, match="Names that start with _ or"):
        find_files([f"{tmp_path}/log/_S*"], kind)


@pytest.mark.parametrize("form", FORMATS)
def test_folders_are_columns(tmp_path, form):
    names = ("user", "item", "time")
    for category in range(3):
        folder = tmp_path / "log" / f"cat%20egory={category}" / "dt=2024-01-01"
        folder.mkdir(parents=True)
        rows = [row for row in ROWS if row[2] == category]
        write(folder / "part-0", form, rows, names)
        write(folder / "part-1", form, [], names)
    kind = make_format(form, "category=cat egory", None)
    assert rows_of(tmp_path / "log", kind, 50) == sorted(ROWS)
    null = tmp_path / "log" / "cat%20egory=__HIVE_DEFAULT_PARTITION__"
    null.mkdir()
    write(null / "part-0", form, ROWS[:1], names)
    _, bad, _ = read(tmp_path / "log", kind, 1 << 20)
    assert [reason for _, reason in bad] == ["category is empty"]
    # a column of the file's own comes first
    own = tmp_path / "category=9"
    own.mkdir()
    write(own / "part-0", form, ROWS)
    assert rows_of(own, make_format(form, None, None)) == sorted(ROWS)


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_compression_is_found_by_content(tmp_path, form, packed):
    path = tmp_path / "log.gz"  # whatever the name says
    write(path, form, ROWS)
    kind = make_format(form, None, None)
    assert rows_of(path, kind) == sorted(ROWS)
    plain = path.read_bytes()
    path.write_bytes(PACK[packed](plain))
    for chunk_bytes in (30, 1 << 20):
        assert rows_of(path, kind, chunk_bytes) == sorted(ROWS)
    cut = plain.index(b"\n") + 1
    path.write_bytes(PACK[packed](plain[:cut]) + PACK[packed](plain[cut:]))  # appended to
    assert rows_of(path, kind) == sorted(ROWS)
    (tmp_path / "empty").write_bytes(PACK[packed](b""))
    assert rows_of(f"{tmp_path}/*", kind) == sorted(ROWS)
    path.write_bytes(PACK[packed](plain)[:-5])
    with pytest.raises(InputError, match=f"log.gz is cut short: the {packed} data ends too early"):
        read(path, kind, 1 << 20)
    damaged = bytearray(PACK[packed](plain))
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(InputError, match=rf"log.gz is (damaged {packed} data|cut short)"):
        read(path, kind, 1 << 20)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"PK\x03\x04\x14\x00\x00\x00", "a zip archive or an Excel workbook"),
        (b"ORC\x0a\x00\x00", "an ORC file"),
        (b"\xff\xfeu\x00s\x00e\x00r\x00", "UTF-16 text, which iconv"),
        (b"\x04\x22\x4d\x18\x64\x40\xa7", "lz4 data"),
        (b"user,item\n\x1b[31m\x00\x01", "binary data"),
        (gzip.compress(gzip.compress(b"user")), "gzip, compressed with gzip"),
        (lzma.compress(b"x" * 257 + b"ustar\x00"), "a tar archive, compressed with xz"),
    ],
    ids=["zip", "orc", "utf16", "lz4", "binary", "gzip twice", "tar in xz"],
)
@pytest.mark.parametrize("form", FORMATS)
def test_anything_else_is_refused_in_one_line(tmp_path, form, content, words):
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        find_files([str(path)], make_format(form, None, None))
    message = error.value.message
    assert f"{path} cannot be read: it is {words}" in message
    assert f"Received: --format {form}, which reads" in message
    assert message.isprintable()


def test_letters_of_a_magic_number_may_begin_a_header(tmp_path):
    path = tmp_path / "log"
    path.write_text("ORC,user,item,category,time\n7,u,1,2,3\n")
    assert rows_of(path, make_format("csv", None, None)) == [("u", 1, 2, 3)]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_plain_delimiter_is_found(tmp_path, mark):
    path = tmp_path / "log"
    lines = [["user", '"a,b;c"', "item", "category", "time"]]
    lines += [[user, '"1;2,3"' if item % 3 else "", str(item), *rest] for user, item, *rest in ROWS]
    text = "".join(mark.join(map(str, line)) + "\r\n" for line in lines)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    form = make_format("csv", None, None)
    for chunk_bytes in (50, 1 << 20):
        assert rows_of(path, form, chunk_bytes) == sorted(ROWS)
    published = tmp_path / "taobao"
    published.write_text("".join(mark.join(["1", "10", "5", "pv", f"{t}\n"]) for t in range(9)))
    assert len(rows_of(published, make_format("taobao", None, None))) == 9


def test_a_given_delimiter(prepare, tmp_path):
    path = tmp_path / "log.csv"
    text = csv_text(made_up_rows())
    path.write_text(text)
    plain = prepare(path, *SMALL)
    for given, mark in (("tab", "\t"), ("\\x01", "\x01"), (":", ":")):
        path.write_text(text.replace(",", mark))
        parts = prepare(path, *SMALL, "--delimiter", given, "--overwrite")
        assert parts.code == 0, parts.err
        assert parts.manifest["digests"] == plain.manifest["digests"]
    refused(prepare(path, "--delimiter", ";"), "missing columns: user, item", "user:item")
    for wrong in ("", ",,", '"', "x", "é", r"\q", r"\x"):
        with pytest.raises(InputError, match="--delimiter must be one character"):
            parse_delimiter(wrong)


@pytest.mark.parametrize("chunk_bytes", [40, 200, 1 << 20])
def test_line_ends_in_quotes(tmp_path, chunk_bytes):
    path = tmp_path / "log"
    lines = []
    for number, (user, *rest) in enumerate(ROWS):
        title = f'"a ""b""\r\n\r\n,{number}"' if number % 4 else "plain"
        lines.append(",".join([user, title, *map(str, rest)]))
    header = "user,title,item,category,time"
    path.write_bytes("\r\n".join([header, *lines]).encode())
    form = make_format("csv", None, None)
    good, bad, _ = read(path, form, chunk_bytes)
    assert sorted(row[1:] for row in good) == sorted(ROWS) and not bad
    # a row's line is its first one
    heights = [1 if number % 4 == 0 else 3 for number in range(len(ROWS))]
    assert [row[0] for row in good] == list(itertools.accumulate(heights[:-1], initial=2))
    # a quote that is never closed costs its own line alone
    path.write_text("\n".join([header, *lines[:30], 'u,"5,1,1,1', *lines[30:]]))
    good, bad, _ = read(path, form, chunk_bytes)
    assert sorted(row[1:] for row in good) == sorted(ROWS)
    assert bad == [(sum(heights[:30]) + 2, "not a csv row: unexpected end of data")]


def test_parts_of_a_log_share_their_layout(tmp_path):
    quoted, plain = tmp_path / "part-0", tmp_path / "part-1"
    quoted.write_text('user,item,category,time,note\n"u",1,2,3,"a\nb"\n')
    plain.write_text("item;time;user;category\n4;6;u;5\n")
    form = make_format("csv", None, None)
    chunks = plan(find_files([str(tmp_path)], form), form, 10)
    assert [(chunk.delimiter, chunk.multiline) for chunk in chunks] == [(",", True), (";", True)]
    assert rows_of(tmp_path, form) == [("u", 1, 2, 3), ("u", 4, 5, 6)]


def test_text_that_is_not_utf8(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("user,item,category,time\nJosé,1,2,3\n".encode("latin-1"))
    refused(prepare(path), "log.csv:2: user is not UTF-8 text", "iconv -f LATIN1 -t UTF-8")
    path.write_bytes(b"user,item,category,time\r1,2,3,4\r")
    refused(prepare(path), "end in carriage returns alone", "tr '\\r' '\\n'")


def test_json_that_is_not_a_record_a_line(tmp_path):
    path, form = tmp_path / "log", make_format("jsonl", None, None)
    write(path, "jsonl", ROWS)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(json.dumps(records))
    with pytest.raises(InputError, match=r"is a JSON array.*jq -c"):
        read(path, form, 1 << 20)
    path.write_text(json.dumps(records[0], indent=1))
    with pytest.raises(InputError, match="missing columns: user, item"):
        read(path, form, 1 << 20)
