"""Package metadata; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1] for line in (HERE / "mnp_plugin/__init__.py").read_text().splitlines() if line.startswith("__version__")
)
CONFIGS = [str(p.relative_to(HERE)) for p in sorted(HERE.glob("benchmark_configs/*.yaml"))]

setup(
    name="mnp_plugin",
    version=VERSION,
    description="Backdoor attacks, defenses and detectors behind a registry, and a benchmark that compares them honestly",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["mnp_plugin", "mnp_plugin.*"]),
    package_data={"mnp_plugin": ["py.typed"]},
    data_files=[("share/mnp_plugin/benchmark_configs", CONFIGS)],
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "filelock>=3.12",
        "numpy>=1.26",
        "pandas>=2.1",
        "pyyaml>=6.0",
        "pillow>=10.0",
        "platformdirs>=4.0",
        "psutil>=5.9",
        "rich>=13.0",
        "safetensors>=0.4.3",
        "scikit-learn>=1.3",
        "torchmetrics>=1.4",
    ],
    extras_require={
        "compact": ["torch-pruning>=1.5"],
        "test": [
            "torch-pruning>=1.5",
            "pytest>=8.0",
            "pytest-benchmark>=4.0",
            "pytest-cov>=5.0",
            "hypothesis>=6.100",
            "mypy>=1.11",
            "ruff>=0.6",
            "import-linter>=2.0",
            "types-PyYAML",
            "pandas-stubs",
            "types-psutil",
        ],
    },
    entry_points={"console_scripts": ["mnp-bench = mnp_plugin.cli.app:main"]},
)
