"""Metadata, dependencies and commands of the package; the version stands in kd2/__init__.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Read as text: importing kd2 would need torch.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "kd2" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)

# Lower bounds are those of tests/lower_bounds.txt: the suite without Detectron2 has passed with exactly these versions.
LIGHTNING = ["torchvision>=0.23", "lightning>=2.6.0", "torchmetrics>=1.8", "tensorboard>=2.19", "timm>=1.0.21"]
TIMM = LIGHTNING
TORCHVISION = [*LIGHTNING, "pycocotools>=2.0.8"]
PARQUET = ["pyarrow>=20.0"]
DEPLOY = ["onnx>=1.23.2", "onnxruntime>=1.32.0", "openvino>=2026.4.1"]
# One minor version each: another one formats or judges the same code differently.
LINT = ["ruff>=0.17.6,<0.18", "mypy>=2.4.1,<2.5"]

setup(
    name="kd2",
    version=VERSION[1],
    description="Knowledge distillation for detection and segmentation on Detectron2 and torchvision, and for timm",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["knowledge distillation", "object detection", "semantic segmentation", "detectron2", "timm"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["kd2", "kd2.*"]), "kd2.configs"],
    package_dir={"kd2.configs": "configs"},
    package_data={"kd2": ["py.typed", "report/templates/*.jinja"], "kd2.configs": ["**/*.yaml", "README.md"]},
    install_requires=[
        "torch>=2.8",
        "numpy>=1.26.4",
        "pillow>=11.1",
        "fvcore>=0.1.5.post20221221",
        "tqdm>=4.67",
        "matplotlib>=3.10",
        "jinja2>=3.1.6",
    ],
    extras_require={
        # The road of FRAMEWORK: torchvision; everything is on PyPI.
        "torchvision": TORCHVISION,
        # The road of FRAMEWORK: timm, for classification.
        "timm": TIMM,
        # Exported files: tools/export.py --format onnx and openvino.
        "deploy": DEPLOY,
        # Classification data in Parquet files.
        "parquet": PARQUET,
        # What the road of FRAMEWORK: detectron2 needs beside Detectron2 itself, which is not on PyPI.
        "detectron2": ["opencv-python>=4.10", "pycocotools>=2.0.8", "cityscapesscripts>=2.2.4", "timm>=1.0.21"],
        # What the README's test command and the linters behind it need.
        "test": [*TORCHVISION, *PARQUET, "pytest>=8.4", "pytest-xdist>=3.7", "hypothesis>=6.155.2", *LINT],
        "dev": LINT,
    },
    entry_points={
        "console_scripts": [
            "kd2-train = kd2.cli:train",
            "kd2-preflight = kd2.cli:preflight",
            "kd2-check-data = kd2.cli:check_data",
            "kd2-fetch-weights = kd2.cli:fetch_weights",
            "kd2-compare = kd2.cli_report:compare",
            "kd2-look = kd2.cli_report:look",
            "kd2-export = kd2.cli_deploy:export",
            "kd2-predict = kd2.cli_deploy:predict",
            "kd2-pseudo-label = kd2.cli_deploy:pseudo_label",
        ]
    },
)
