"""Packages tfdare, beam_jobs and serving; Dataflow workers install this file too."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
REPOSITORY = "https://github.com/tfdare/tfdare"
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "tfdare/__init__.py").read_text()).group(1)

# What every part needs: enough to sort events on a Beam worker, without TensorFlow.
CORE = ["numpy>=1.26", "protobuf>=5.28", "google-crc32c>=1.5"]
BEAM = ["apache-beam>=2.60", "pyarrow>=14", "fastavro>=1.9", "scipy>=1.11", "pyyaml>=6"]
MODEL = [
    "tensorflow>=2.18,<2.22",
    "tensorboard>=2.18,<2.22",
    "keras>=3.6",
    "tf-keras>=2.18,<2.22",
    # on macOS it asks for a TensorFlow that ended with 2.16
    "tensorflow-recommenders>=0.7.3; sys_platform == 'linux'",
    "scikit-learn>=1.4",
    "threadpoolctl>=3.1",
    "matplotlib>=3.8",
    "tqdm>=4.66",
]
SERVING = [
    "tensorflow-serving-api>=2.18,<2.22",
    "grpcio>=1.60",
    "grpcio-health-checking>=1.60",
    "aiohttp>=3.9",
    "prometheus-client>=0.20",
]
GCP = ["apache-beam[gcp]>=2.60"]
# What building a Dataflow graph and reading BigQuery import, so that tests do it offline.
GRAPHS = [
    "google-apitools>=0.5.31,<0.5.32",
    "google-auth-httplib2>=0.1,<0.3",
    "google-cloud-bigquery>=3.20",
    "google-cloud-bigquery-storage>=2.6.3",
    "google-cloud-dataflow-client>=0.8",
    "google-cloud-storage>=2.18",
    "regex>=2020.6.8",
]
BENCH = ["polars>=1.9"]  # a rival of tests/benchmarks/bench_beam.py
TUNE = ["optuna>=4"]
TEST = [
    *GRAPHS,
    *TUNE,
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "build>=1.2",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "ipykernel>=6.29",
    "cryptography>=42",
    "ruff>=0.9",
    "mypy>=1.13",
    # the reference: mkdocs.yml
    "mkdocs>=1.6",
    "mkdocstrings[python]>=0.27",
]

setup(
    name="tfdare",
    version=VERSION,
    description="Decoupled attention and representation embeddings for lifelong histories, "
    "from event log to TF Serving",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=REPOSITORY,
    project_urls={
        "Documentation": f"{REPOSITORY}#readme",
        "Source": REPOSITORY,
        "Changes": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
        "Paper": "https://arxiv.org/abs/2410.02604",
    },
    keywords="click-through rate, recommender systems, lifelong histories, TensorFlow, Keras, Beam",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["tfdare*", "beam_jobs*", "serving*"]),
    package_data={
        "tfdare": ["py.typed"],
        "serving": ["py.typed", "config/*", "config/*/*"],
        "tfdare.simulation": ["like/*.json"],
        "beam_jobs": ["py.typed", "README.md", "dataflow/*.json", "dataflow/*.Dockerfile"],
    },
    python_requires=">=3.10,<3.14",
    install_requires=CORE + BEAM + MODEL + SERVING,
    extras_require={"test": TEST, "tune": TUNE, "gcp": GCP, "bench": BENCH},
    entry_points={
        "console_scripts": ["tfdare=tfdare.cli:main"],
        # tfdare imports neither beam_jobs nor serving: the command finds them here.
        "tfdare.commands": [
            "simulate=tfdare.commands.simulate:main",
            "inspect=tfdare.commands.inspect:main",
            "train=tfdare.commands.train:main",
            "evaluate=tfdare.commands.evaluate:main",
            "compare=tfdare.commands.compare:main",
            "analyze=tfdare.commands.analyze:main",
            "export=tfdare.commands.export:main",
            "renew-attention=tfdare.commands.renew_attention:main",
            "demo=tfdare.commands.demo:main",
            "prepare=beam_jobs.build_sequences:main",
            "serve=serving.server.main:main",
            "query=serving.tools.query:main",
            "verify=serving.tools.verify:main",
        ],
    },
)
