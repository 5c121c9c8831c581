from setuptools import find_packages, setup

# Lower bounds are versions that the test suite has run with.
TIMM = [
    "timm>=1.0.31", "torchvision>=0.29.2", "lightning>=2.6.6", "torchmetrics>=1.9", "pillow>=13.0", "tensorboard>=2.21",
]
TORCHVISION = [*TIMM, "pycocotools>=2.0.11"]

setup(
    name="kd2",
    version="0.1.0",
    description="Knowledge distillation for object detection and segmentation on Detectron2, classification on timm",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["kd2", "kd2.*"]),
    install_requires=["torch>=2.15", "numpy>=2.4", "fvcore>=0.1.5.post20221221", "matplotlib>=3.11"],
    extras_require={
        # The embedded default: everything on PyPI.
        "torchvision": TORCHVISION,
        # Classification.
        "timm": TIMM,
        # Classification data in Parquet files.
        "parquet": ["pyarrow>=26.0"],
        # Beside Detectron2 itself, which is not on PyPI.
        "detectron2": ["opencv-python>=5.0", "pycocotools>=2.0.11", "cityscapesscripts>=2.3", "timm>=1.0.31"],
        "test": [*TORCHVISION, "pytest>=9.0", "pytest-xdist>=3.8"],
    },
)
