from setuptools import find_packages, setup

TORCHVISION = ["torchvision>=0.26", "timm>=1.0.20", "lightning>=2.6", "pycocotools>=2.0.7", "pillow>=10", "tensorboard>=2.14"]

setup(
    name="kd2",
    version="0.1.0",
    description="Knowledge distillation for object detection and segmentation on Detectron2",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["kd2", "kd2.*"]),
    install_requires=["torch>=2.11", "numpy>=1.26", "fvcore>=0.1.5.post20221221", "matplotlib>=3.8"],
    extras_require={
        # The embedded default: everything on PyPI.
        "torchvision": TORCHVISION,
        # Beside Detectron2 itself, which is not on PyPI.
        "detectron2": ["opencv-python>=4.9", "pycocotools>=2.0.7", "cityscapesscripts>=2.2", "timm>=1.0.20"],
        "test": [*TORCHVISION, "pytest>=8"],
    },
)
