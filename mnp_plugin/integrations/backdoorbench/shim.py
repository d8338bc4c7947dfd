"""What the scripts in a BackdoorBench checkout run: their data, clean subset and evaluation around a defense from here.

Runs with the checkout as working directory. BackdoorBench's modules are imported by name there; their ``attack_result.pt``
is read by the safe reader instead of being unpickled, which also spares its users an environment variable.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnp_plugin.api.calls import purify
from mnp_plugin.contracts import Purified, Recipe
from mnp_plugin.core.errors import UserError
from mnp_plugin.integrations.backdoorbench.options import Options, read_options
from mnp_plugin.integrations.backdoorbench.record import KEYS, data_folder, poisoned_samples
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.safe import read_plain, weights_into
from mnp_plugin.io.torch_writer import plain_weights, write_torch
from mnp_plugin.nets import normalise_inside


def main(fixed: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Run the script of defense ``fixed``, or the generic one. Exit status 0, or 2 on bad input."""
    try:
        _run(read_options(fixed, sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: Options) -> None:
    root = Path.cwd()
    if not (root / "utils" / "save_load_attack.py").is_file():
        raise UserError(f"{root} is no BackdoorBench checkout; run the script from the checkout's root: python ./defense/mnp.py")
    sys.path[0] = str(root)  # was defense/, whose files would shadow other modules; theirs must be found before installed ones
    record = root / "record" / options["result_file"]
    if not (record / "attack_result.pt").is_file():
        raise UserError(f"no {record / 'attack_result.pt'}; --result_file is the name of a folder under record/")
    raw = read_plain(record / "attack_result.pt")
    _check_record(raw, options, record)
    folder = record / "defense" / options.name
    log = Path(options["log"] or folder / "log")
    for needed in (Path(options["checkpoint_save"] or folder / "checkpoint"), log):
        needed.mkdir(parents=True, exist_ok=True)
    _log_to(log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, of deprecated calls; a user can change nothing about them
        _defend(options, raw, record, folder, log)


def _check_record(raw: Any, options: Options, record: Path) -> None:
    if not isinstance(raw, dict) or not set(KEYS) <= raw.keys():
        raise UserError(f"{record / 'attack_result.pt'} is no attack result of BackdoorBench")
    if raw["clean_data"] != options["dataset"]:
        raise UserError(f"the record was made on {raw['clean_data']}: pass --dataset {raw['clean_data']}")
    if options["model"] not in (None, raw["model_name"]):
        raise UserError(f"the record holds a {raw['model_name']}, not a {options['model']}: pass --model {raw['model_name']}")


def _defend(options: Options, raw: dict[str, Any], record: Path, folder: Path, log: Path) -> None:
    device = _device(options["device"])
    seed = int(options["random_seed"])
    result = _load(raw, record)
    _theirs("utils.aggregate_block.fix_random").fix_random(seed)  # right before the draw, so that it is theirs
    x, y, chosen = clean_subset(result["clean_train"].wrapped_dataset, options, raw["img_size"])
    write_atomic(log / "index.txt", "".join(f"{i}\n" for i in chosen).encode())
    logging.info("%s on %d clean images: %r", options.name, len(y), options.method)
    build = _theirs("utils.aggregate_block.model_trainer_generate").generate_cls_model
    data = _theirs("utils.aggregate_block.dataset_and_transform_generate")
    model: nn.Module = build(raw["model_name"], raw["num_classes"])
    weights_into(model, result["model"], record / "attack_result.pt")
    scale = data.get_dataset_normalization(options["dataset"])
    mean, std = ([float(v) for v in values] for values in (scale.mean, scale.std))
    normalise_inside(model.to(device), tuple(mean), tuple(std))
    start = time.perf_counter()
    repaired = _purify(model, x, y, options, seed)
    seconds = time.perf_counter() - start
    plain: nn.Module = build(raw["model_name"], raw["num_classes"])
    plain.load_state_dict(repaired.model.state_dict())
    report = {"defense": options.method.name, "clean_images": len(y), "seconds": round(seconds, 2), **repaired.report}
    logging.info("%s", json.dumps(report))
    table = evaluate(plain, result, options, device, data.get_transform(options["dataset"], *raw["img_size"][:2], train=False))
    write_atomic(folder / f"{options.name}_df_summary.csv", table.to_csv().encode())
    write_atomic(folder / f"{options.name}_report.json", (json.dumps(report, indent=1) + "\n").encode())
    content = {"model_name": raw["model_name"], "num_classes": raw["num_classes"], "model": plain_weights(plain.state_dict())}
    write_torch(folder / "defense_result.pt", content)


def _purify(model: nn.Module, x: Tensor, y: Tensor, options: Options, seed: int) -> Purified:
    recipe = Recipe(
        crop=4,
        flip=options["dataset"] == "cifar10",  # their rule: only CIFAR-10 is mirrored
        precision="auto" if options["amp"] else "float32",
    )
    return purify(model, x, y, defense=options.method, recipe=recipe, seed=seed)


def _theirs(module: str) -> Any:
    return importlib.import_module(module)


def _load(raw: dict[str, Any], record: Path) -> Any:
    """Their ``load_attack_result`` on what the safe reader gave; its pictures are looked for in this record and nowhere else."""
    data_folder(record, str(raw["data_path"]))
    source = f"{record / 'attack_result.pt'}: bd_test"
    samples = poisoned_samples(record, raw["bd_test"], int(raw["num_classes"]), source)
    items = {np.int64(p.index): {"path": str(record / p.file), "other_info": [p.label, p.true_label]} for p in samples}
    container = {**raw["bd_test"]["bd_data_container"], "data_dict": items}
    raw = {**raw, "bd_train": None, "bd_test": {**raw["bd_test"], "bd_data_container": container}}
    module = _theirs("utils.save_load_attack")
    torch_of_module = module.torch
    module.torch = SimpleNamespace(load=lambda *_, **__: raw)
    try:
        result = module.load_attack_result(str(record / "attack_result.pt"))
    finally:
        module.torch = torch_of_module
    return result


def clean_subset(dataset: Any, options: Options, size: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
    """The clean images their rule chooses: uint8 [N, C, H, W], int64 [N], and their indices.

    Args:
        dataset: their clean training set, items (picture, label, ...).
        options: ``index`` or ``ratio``; Python's random stream must have been seeded just before.
        size: (H, W, ...), to which their transform resizes.
    """
    index_file = options["index"]
    if index_file is not None and not Path(index_file).is_file():
        raise UserError(f"no file {index_file}; --index names a file of image indices, one per line")
    choose = _theirs("utils.choose_index").choose_index
    try:
        chosen = [int(i) for i in choose(SimpleNamespace(index=index_file, ratio=options["ratio"]), len(dataset))]
    except ValueError as error:
        raise UserError(f"{index_file}: not one index per line: {error}") from None
    if not all(0 <= i < len(dataset) for i in chosen):
        raise UserError(f"{index_file}: indices must lie in 0..{len(dataset) - 1}")
    height, width = int(size[0]), int(size[1])
    resize = _theirs("torchvision.transforms").Resize((height, width))
    pictures, labels = [], []
    for i in chosen:
        picture, label, *_ = dataset[i]
        array = np.asarray(resize(picture))
        pictures.append(array.reshape(height, width, -1).transpose(2, 0, 1))
        labels.append(int(label))
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels), chosen


def evaluate(model: nn.Module, result: Any, options: Options, device: torch.device, transform: Any) -> Any:
    """Their evaluation of ``model``: a table of one row (losses, test_acc, test_asr, test_ra)."""
    loaders = {}
    for key in ("clean_test", "bd_test"):
        result[key].wrap_img_transform = transform
        loaders[f"{key}_dataloader"] = torch.utils.data.DataLoader(
            result[key],
            batch_size=int(options["batch_size"] or 256),
            num_workers=int(options["num_workers"]),
            pin_memory=bool(options["pin_memory"]) and device.type == "cuda",
        )
    trainers = _theirs("utils.trainer_cls")
    trainer = trainers.PureCleanModelTrainer(model)
    trainer.set_with_dataloader(
        train_dataloader=loaders["clean_test_dataloader"],
        test_dataloader_dict=loaders,
        criterion=nn.CrossEntropyLoss(),
        optimizer=None,
        scheduler=None,
        device=device,
        amp=bool(options["amp"]) and device.type == "cuda",
        frequency_save=0,
        save_folder_path="",
        save_prefix=options.name,
        prefetch=False,
        non_blocking=bool(options["non_blocking"]),
    )
    columns = ("clean_test_loss_avg_over_batch", "bd_test_loss_avg_over_batch", "test_acc", "test_asr", "test_ra")
    rows = trainers.Metric_Aggregator()
    rows(dict(zip(columns, trainer.test_current_model(loaders, device), strict=True)))
    return rows.to_dataframe()


def _device(name: str) -> torch.device:
    """The first device of their notation, which may name several (``cuda:2,3``); the CPU where there is no CUDA."""
    try:
        return torch.device(name.split(",")[0] if torch.cuda.is_available() else "cpu")
    except RuntimeError:
        raise UserError(f"no device is called '{name}'; use cpu, cuda or cuda:N") from None


def _log_to(folder: Path) -> None:
    """Their log: one file named by the time, and the terminal."""
    shape = "%(asctime)s [%(levelname)-8s] [%(filename)s:%(lineno)d] %(message)s"
    to_file = logging.FileHandler(folder / time.strftime("%Y_%m_%d_%H_%M_%S.log"))
    logging.basicConfig(
        level=logging.INFO, format=shape, datefmt="%Y-%m-%d:%H:%M:%S", handlers=[to_file, logging.StreamHandler()]
    )
    for noisy in ("PIL", "matplotlib.font_manager"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
