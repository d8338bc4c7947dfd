"""Package metadata; tools are configured in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
NAME = "mnp_plugin"
REPORT = ["jinja2>=3.1", "matplotlib>=3.9"]


def version() -> str:
    """The version that the package states."""
    found = re.search(r'^__version__ = "(.+)"$', (HERE / NAME / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def description() -> str:
    """The README; its links into the repository lead nowhere from an index of packages, so their targets stand beside them, and
    in place of its picture stands what it shows."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[([^\]]+)\]\((?![a-z]+:)([^)]+)\)", r"*\1 (`\2` in the source distribution)*", text)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)]+)\)", r"\1 (`\2` in the source distribution)", text)


class BuildWithSuites(build_py):
    """The suites lie at the top of the repository, and in an installed package inside it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(HERE / "benchmark_configs", Path(self.build_lib) / NAME / "benchmark_configs", dirs_exist_ok=True)


setup(
    name=NAME,
    version=version(),
    description="Backdoor attacks, defenses and detectors behind a registry, and a benchmark that compares them honestly",
    long_description=description(),
    long_description_content_type="text/markdown",
    author="the mnp_plugin authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["backdoor attack", "backdoor defense", "data poisoning", "neuron pruning", "BackdoorBench", "benchmark", "pytorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Security",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_dir={"": "."},  # an editable installation is then a path, which type checkers follow, and no import hook
    package_data={NAME: ["entry_points.txt", "py.typed", "report/page/*.html", "report/page/*.css", "report/page/*.js"]},
    cmdclass={"build_py": BuildWithSuites},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "filelock>=4.3",
        "fsspec>=2024.10",
        "numpy>=1.26",
        "pandas>=2.2.2",
        "pyyaml>=6.0.1",
        "pillow>=11.0",
        "platformdirs>=4.0",
        "psutil>=5.9",
        "rich>=13.0",
        "safetensors>=0.4.4",
        "scikit-learn>=1.3",
        "scipy>=1.15",
        "shtab>=1.6",
        "torchmetrics>=1.4.3",
    ],
    extras_require={
        "report": REPORT,
        "browser": ["playwright>=1.45"],
        "compact": ["torch-pruning>=1.5"],
        "ray": ["ray>=2.40"],
        "s3": ["s3fs>=2024.10"],
        "tensorboard": ["tensorboard>=2.16"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "test": [
            *REPORT,
            "scikit-posthocs>=0.10",
            "torch-pruning>=1.5",
            "pyright[nodejs]>=1.1.414",  # of the versions tried, it needs no download of its own
            "pytest>=8.0",
            "pytest-benchmark>=4.0",
            "pytest-cov>=5.0",
            "pytest-xdist>=3.8",
            "hypothesis>=6.100",
            "mypy>=1.18",
            "ruff>=0.6",
            "import-linter>=2.0",
            "types-PyYAML>=6.0.12",
            "pandas-stubs>=2.2.2.240603",
            "types-psutil>=5.9.5",
        ],
    },
    entry_points=(HERE / NAME / "entry_points.txt").read_text(encoding="utf-8"),
)
