"""The README of the jobs: its commands run as written, and its options exist."""

import pathlib
import re
import subprocess

from beam_jobs.options import make_parser
from beam_jobs.shared.parser import check_beam
from tests.test_readme import environment

TEXT = (pathlib.Path(__file__).parents[2] / "beam_jobs" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_first_commands_run(tmp_path):
    done = subprocess.run(
        ["bash", "-euc", BLOCKS[0]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in (
        "sequences/_SUCCESS",
        "statistics/statistics.html",
        "mutual_information/mutual_information.png",
        "vectors/vectors.json",
    ):
        assert (tmp_path / "build" / name).exists()


def test_options_exist():
    known = set(make_parser("prog")._option_string_actions)
    named = set(re.findall(r"(?<![\w-])(--[a-z_]+)", TEXT))
    others = {"--sequences", "--users", "--help", "--service_port", "--build", "--model"}
    others |= {"--warm_start", "--user", "--request", "--json"}  # of tfdare train and inspect
    gcloud = {
        "--image",
        "--sdk-language",
        "--metadata-file",
        "--region",
        "--parameters",
        "--sdk",
        "--template-file-gcs-location",
        "--metadata",
        "--template",
    }
    assert "--hash_buckets" in named and len(named) > 30
    values = {"--direct_running_mode": "multi_processing"}
    # all that is left are options of Beam
    check_beam([f"{name}={values.get(name, 1)}" for name in named - known - others - gcloud])
