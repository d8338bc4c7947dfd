"""Writes a victim trained here as a ``record/<name>/`` folder that BackdoorBench's own scripts read."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.stages import Victim
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import Suite, VictimSpec
from mnp_plugin.contracts import ImageData, Images, Triggered, to_bytes
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.core.params import seed_of
from mnp_plugin.data.split import divide
from mnp_plugin.evaluation.measure import measure
from mnp_plugin.integrations.backdoorbench.names import data_facts, their_net_name
from mnp_plugin.integrations.backdoorbench.record import FILE
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.torch_writer import plain_weights, write_torch
from mnp_plugin.nets import build_net
from mnp_plugin.report.records import Scores

EXPORTED = {"cifar10": "cifar10"}
"""Registered data sets whose images and order are BackdoorBench's own -> its name for them."""


def export_victim(suite: Suite, label: str, seed: int | None, store: Store, out: Path) -> Scores:
    """Write victim ``label`` of ``suite``, which must have been trained, to ``out``.

    Args:
        suite: its suite.
        label: label of the attack.
        seed: which seed of the suite; None is the first.
        store: where the victim is kept.
        out: ``.../record/<name>``, new or empty.

    Returns:
        The victim's scores on the pictures as written (8 bit), which BackdoorBench's evaluation should give.

    Raises:
        UserError: no such victim, not trained yet, a net, data set or attack that BackdoorBench cannot hold, ``out`` in use.
    """
    spec = _choose(suite, label, seed)
    net = their_net_name(spec.net.component)
    dataset = EXPORTED.get(spec.dataset.component.name)
    if dataset is None:
        raise UserError(
            f"victims on '{spec.dataset.label}' cannot be exported: BackdoorBench looks its clean images up by its own names; "
            f"train on {', '.join(EXPORTED)}"
        )
    if not spec.attack.component.has_trigger:
        raise UserError(f"'{label}' has no trigger: BackdoorBench's records are of attacked models")
    _check_place(out)
    loaded = store.load_victim(spec)
    if loaded is None:
        raise UserError(f"victim '{spec.title}' is not trained yet; run its suite first: mnp-bench run {suite.name}")
    weights, tensors, _ = loaded
    data = spec.dataset.component.load(store.cache)
    split = stages.split_of(spec, data)
    model = build_net(spec.net.component, data)
    model.load_state_dict(weights)
    victim = Victim.from_tensors(tensors, model, lambda: build_net(spec.net.component, data))
    triggered = stages.triggered_test(spec, victim.state, split, len(data.classes))
    assert triggered is not None
    test_state = _write_pictures(out, "bd_test_dataset", to_bytes(triggered.x), triggered, len(data.test))
    train_state = None
    if len(victim.poisoned):
        train_state = _training(out, spec, data, split.train, victim)
    facts = data_facts(dataset)
    c, h, w = facts.shape
    content = {
        "model_name": net,
        "num_classes": facts.classes,
        "model": OrderedDict(plain_weights(model.state_dict())),
        "data_path": f"./data/{dataset}",
        "img_size": (h, w, c),
        "clean_data": dataset,
        "bd_train": train_state,
        "bd_test": test_state,
    }
    as_written = Triggered(to_bytes(triggered.x).float() / 255, triggered.y_true, triggered.y_attack, triggered.index)
    scores = measure(model, split.test, as_written)
    _write_tables(out, spec.recipe.epochs, scores)
    write_torch(out / FILE, content)  # last: a folder with this file is whole
    return scores


def _choose(suite: Suite, label: str, seed: int | None) -> VictimSpec:
    own = [v for v in suite.victims if isinstance(v, VictimSpec)]
    named = [v for v in own if v.attack.label == label]
    if not named:
        raise UserError(f"suite '{suite.name}' has no attack '{label}'.{did_you_mean(label, {v.attack.label for v in own})}")
    fitting = [v for v in named if seed in (None, v.seed)]
    if not fitting:
        raise UserError(f"suite '{suite.name}' has no seed {seed}; it has {', '.join(str(v.seed) for v in named)}")
    return fitting[0]


def _check_place(out: Path) -> None:
    if out.resolve().parent.name != "record":
        raise UserError(f"--out must be a folder in BackdoorBench's record/, such as record/ours_badnet, not {out}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is in use; choose another name")


def _training(out: Path, spec: VictimSpec, data: ImageData, train: Images, victim: Victim) -> dict[str, Any]:
    """The poisoned training pictures. Attacks that draw anew for each picture draw again here."""
    attack, classes = spec.attack.component, len(data.classes)
    tools = stages.attack_context(["victim", spec.plain()], spec, data, torch.device("cpu"))
    altered = stages.poison(attack, train, victim.poisoned, victim.cover, victim.state, classes, tools)
    index = torch.cat([victim.poisoned, victim.cover]).sort().values
    _, kept = divide(data, spec.budget, seed_of("split", spec.dataset.plain(), spec.seed))
    part = Triggered(altered.x[index], train.y[index], altered.y[index], kept[index])
    return _write_pictures(out, "bd_train_dataset", part.x, part, len(data.train))


def _write_pictures(out: Path, folder: str, x: Tensor, about: Triggered, total: int) -> dict[str, Any]:
    """PNG files and the state of a poisoned data set, with the types BackdoorBench's code gives them.

    Args:
        out: the record.
        folder: ``bd_train_dataset`` or ``bd_test_dataset``; the latter holds the poisoned images alone.
        x: uint8 [M, 3, H, W].
        about: true and attacker's labels, and indices into the clean set.
        total: size of the clean set.
    """
    place = f"./record/{out.resolve().name}/{folder}"
    items = {}
    rows = zip(x, about.index.tolist(), about.y_attack.tolist(), about.y_true.tolist(), strict=True)
    for picture, index, label, true_label in rows:
        stream = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(stream, format="PNG")
        write_atomic(out / folder / str(true_label) / f"{index}.png", stream.getvalue())
        items[np.int64(index)] = {"path": f"{place}/{true_label}/{index}.png", "other_info": [label, true_label]}
    indicator = np.zeros(total)
    indicator[about.index.numpy()] = 1
    order = np.arange(total)
    return {
        "bd_data_container": {"save_folder_path": place, "data_dict": items, "save_file_format": ".png"},
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": order if folder == "bd_train_dataset" else order[indicator == 1],
        "poison_indicator": indicator,
        "save_folder_path": place,
    }


def _write_tables(out: Path, epochs: int, scores: Scores) -> None:
    """``attack_df.csv`` and its summary, as far as it is known: the last epoch's scores."""
    head = "epoch,test_acc,test_asr,test_ra"
    row = f"{epochs},{scores.acc!r},{scores.asr!r},{scores.ra!r}"
    write_atomic(out / "attack_df.csv", f",{head}\n0,{row}\n".encode())
    summary = f",{head}\nlast,{row}\nvalid_max,{row}\nexist_nan_value,False,False,False,False\n"
    write_atomic(out / "attack_df_summary.csv", summary.encode())
