"""The text of the files that :mod:`.install` adds to a checkout: two thin scripts and their configurations."""

from __future__ import annotations

import dataclasses
from typing import Any

from mnp_plugin.contracts import Defense, defenses
from mnp_plugin.integrations.backdoorbench.names import DATA

GENERIC = "mnp_plugin_defense"
"""Name of the script that runs any registered defense, and prefix of its result folders."""

SCRIPT = '''\
"""{what}

    python ./defense/{name}.py {extra}--result_file badnet_0_1 --yaml_path ./config/defense/{name}/cifar10.yaml --dataset cifar10

Added by `mnp-bench bridge install`; `mnp-bench bridge uninstall` takes it away. All it does stands in mnp_plugin.
"""

import sys

from mnp_plugin.integrations.backdoorbench.shim import main

if __name__ == "__main__":
    sys.exit(main({argument}))
'''

COMMON = """\
# Added by `mnp-bench bridge install`; `mnp-bench bridge uninstall` takes it away.
device: 'cuda'
amp: True
pin_memory: True
non_blocking: True
prefetch: False

checkpoint_load:
checkpoint_save:
log:
dataset_path: './data'
dataset: '{dataset}'

num_workers: 4
model: 'preactresnet18'
frequency_save: 0
random_seed: 0

index:
ratio: 0.05
"""


def added_files() -> dict[str, str]:
    """Path relative to the checkout -> text, of every file the bridge adds."""
    mnp = defenses.get("mnp")
    files = {
        "defense/mnp.py": SCRIPT.format(what="Magnitude-based Neuron Pruning.", name="mnp", extra="", argument='"mnp"'),
        f"defense/{GENERIC}.py": SCRIPT.format(
            what="Any defense that mnp_plugin knows (`mnp-bench list`).", name=GENERIC, extra="--defense anp ", argument=""
        ),
    }
    for dataset in DATA:
        common = COMMON.format(dataset=dataset)
        files[f"config/defense/mnp/{dataset}.yaml"] = common + _settings(mnp)
        files[f"config/defense/{GENERIC}/{dataset}.yaml"] = common + "\n# settings of the defense, under their own names\n"
    for name in ("mnp", GENERIC):
        files[f"config/defense/{name}/config.yaml"] = files[f"config/defense/{name}/cifar10.yaml"]
    return dict(sorted(files.items()))


def _settings(cls: type[Defense]) -> str:
    lines = [f"\n# settings of {cls.name}"]
    for field in dataclasses.fields(cls):
        lines.append(f"{field.name}: {_yaml(field.default)}  # {field.metadata.get('help', '')}")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    """A scalar as YAML 1.1 reads it back; 5e-4 would be text there."""
    if isinstance(value, float):
        return f"{value:.10f}".rstrip("0") + ("0" if value == int(value) else "")
    return str(value).lower() if isinstance(value, bool) else str(value)
