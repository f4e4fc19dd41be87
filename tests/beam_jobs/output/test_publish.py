"""Publishing the output folder: it appears whole or not at all."""

import subprocess
import sys
import time

import pytest

import beam_jobs.output.publish as publishing
from beam_jobs.output.publish import Staging
from beam_jobs.shared.errors import InputError, find_message
from beam_jobs.shared.storage import new_file, read_file, write_file
from tfdare.schema import SchemaError
from tfdare.sequences import open_sequences


def fill(staging, text):
    write_file(f"{staging.folder}/schema.json", text)
    write_file(f"{staging.folder}/train/part-0", text)
    write_file(f"{staging.folder}/scrap", text)


def test_output_appears_in_one_step(tmp_path):
    output = tmp_path / "out"
    staging = Staging(str(output), overwrite=False)
    staging.check()
    fill(staging, b"new")
    assert not output.exists()
    staging.publish(["scrap"])
    staging.remove()
    assert sorted(path.name for path in output.iterdir()) == ["_SUCCESS", "schema.json", "train"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_written_by_another_run_meanwhile_is_kept(tmp_path):
    output = tmp_path / "out"
    staging = Staging(str(output), overwrite=False)
    staging.check()
    fill(staging, b"new")
    output.mkdir()
    (output / "other").write_text("theirs")
    with pytest.raises(InputError, match="made by another run meanwhile"):
        staging.publish(["scrap"])
    staging.remove()
    assert [path.name for path in output.iterdir()] == ["other"]


def test_the_old_output_comes_back_if_the_last_step_fails(tmp_path, monkeypatch):
    output = tmp_path / "out"
    for text in (b"old", b"new"):
        staging = Staging(str(output), overwrite=True)
        staging.check()
        fill(staging, text)
        if text == b"old":
            staging.publish(["scrap"])
    rename = publishing.os.rename

    def fail(source, target):
        if source == staging.folder:
            raise OSError("disk on fire")
        rename(source, target)

    monkeypatch.setattr(publishing.os, "rename", fail)
    with pytest.raises(OSError, match="disk on fire"):
        staging.publish(["scrap"])
    staging.remove()
    assert (output / "schema.json").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_remote_publishing_moves_files_and_writes_success_last(tmp_path, monkeypatch):
    """Publishes local files through the code for file systems that cannot rename a folder."""
    monkeypatch.setattr(publishing, "is_local", lambda path: False)
    output = tmp_path / "out"
    (output / "train").mkdir(parents=True)
    (output / "old").write_text("old")
    (output / "_SUCCESS").write_text("")
    with pytest.raises(InputError, match="exists"):
        Staging(str(output), overwrite=False).check()
    staging = Staging(str(output), overwrite=True)
    staging.check()
    fill(staging, b"new")
    order = []
    rename = publishing.FileSystems.rename

    def watched(sources, targets):
        assert not (output / "_SUCCESS").exists()
        order.extend(targets)
        rename(sources, targets)

    monkeypatch.setattr(publishing.FileSystems, "rename", watched)
    staging.publish(["scrap"])
    staging.remove()
    files = sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file())
    assert files == ["_SUCCESS", "schema.json", "train/part-0"]
    assert len(order) == 2


def test_a_file_appears_whole(tmp_path):
    path = str(tmp_path / "folder" / "file")
    with pytest.raises(RuntimeError):
        with new_file(path) as file:
            file.write(b"half")
            raise RuntimeError("stop")
    assert list((tmp_path / "folder").iterdir()) == []
    write_file(path, b"one")
    write_file(path, b"two")  # a bundle that is tried twice
    assert read_file(path) == b"two"
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["file"]


def test_the_message_is_found_in_wrapped_errors():
    error = InputError("the log is\ncut short: 'a.gz'")
    assert find_message(error) == error.message
    assert find_message(RuntimeError(f"Pipeline failed: Traceback ... {error} [while x]")) == (
        error.message
    )
    try:
        raise RuntimeError("outer") from error
    except RuntimeError as outer:
        assert find_message(outer) == error.message
    assert find_message(RuntimeError("a bug")) is None


def test_a_killed_run_leaves_no_output_that_readers_accept(tmp_path):
    """Kills runs at several moments: readers refuse what is left, and the next run is whole."""
    log = tmp_path / "log.csv"
    rows = [f"{n % 400},{n * 7919 % 500 + 1},{n % 9 + 1},{n}\n" for n in range(60_000)]
    log.write_text("user,item,category,time\n" + "".join(rows))
    command = [
        sys.executable,
        "-m",
        "beam_jobs.build_sequences",
        "--input",
        str(log),
        "--format",
        "csv",
        "--split",
        "last_fraction",
        "--output",
        str(tmp_path / "out"),
    ]
    stages = ["reading 1 file", "sorting histories", "writing vocabularies", "building"]
    for number, stage in enumerate(stages):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if stage in line:
                break
        time.sleep(0.02 * number)
        process.kill()
        process.communicate()
        assert not (tmp_path / "out").exists()
        for left in tmp_path.glob("out.tmp-*"):
            with pytest.raises(SchemaError):
                open_sequences(str(left))
    whole = subprocess.run(command, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    before = open_sequences(str(tmp_path / "out")).manifest["digests"]
    # and what was there stays there when a run that was to replace it is killed
    process = subprocess.Popen([*command, "--overwrite"], stderr=subprocess.PIPE, text=True)
    assert any("sorting histories" in line for line in process.stderr)
    process.kill()
    process.communicate()
    assert open_sequences(str(tmp_path / "out")).manifest["digests"] == before
