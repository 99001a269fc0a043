"""Installs `eeasr_modules` and the command `eeasr`; recipes, hparams and tests stay in the repository."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "eeasr_modules" / "__init__.py").read_text("utf-8"), re.M)
README = ROOT / "README.md"

setup(
    name="eeasr",
    version=VERSION.group(1),
    description="Early exit for speech recognition: train exits, decide per utterance when to stop",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The EE-ASR authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["eeasr_modules", "eeasr_modules.*"]),
    package_data={
        "eeasr_modules": [
            "py.typed",
            "exits/measure/*.json",
            "report/web/*",
            "demo/examples/*",
            "shipped/README.md",
            "shipped/*/*",
            "shipped/*/tables/*",
        ]
    },
    # No pin of torch here: constraints/cpu.txt holds the version of machines without a GPU.
    install_requires=[
        "torch>=2.7.1",
        "torchaudio>=2.7.1",
        "speechbrain>=1.1,<1.2",
        "transformers>=5.0,<6",  # 4.x returns tuples from encoder layers
        "hyperpyyaml>=1.2.3",
        "soundfile>=0.13",
        "safetensors",
        "sentencepiece",
        "jiwer>=4",
        "rapidfuzz>=3",
        "numpy",
        "scipy",
        "pyarrow",
        "matplotlib",
        "tqdm",
        "scikit-learn",
        "wordfreq>=3.1",  # policies lexical, gain, gain_words
    ],
    extras_require={
        "audio": ["av"],  # m4a, aac, webm
        "demo": ["gradio>=6,<7"],  # eeasr demo
        "datasets": ["datasets"],  # recipes/Custom reads what it saved
        "tensorboard": ["tensorboard"],  # logger: tensorboard
        "wandb": ["wandb"],  # logger: wandb
        "ray": ["ray[data]"],  # runtime.TranscribeBatch in the workers of Ray Data
        "completion": ["shtab"],  # eeasr completion
        "lm": ["kenlm", "pygtrie"],  # beam search with a language model
        "onnx": ["onnx", "onnxruntime"],  # eeasr export
        "peers": ["onnx", "onnxruntime", "openvino"],  # benchmarks/end_to_end.py
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]", "mkdocs-jupyter", "nbclient", "ipykernel"],
        "dev": ["pytest>=8", "pytest-xdist", "ruff", "hypothesis"],
    },
    entry_points={"console_scripts": ["eeasr = eeasr_modules.cli:main"]},
)
