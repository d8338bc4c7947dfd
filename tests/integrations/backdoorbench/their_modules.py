"""A stand-in for the parts of BackdoorBench that the scripts call: the same names and signatures, our own few lines.

It shows that the scripts work through those names alone; the tests against a real checkout show that the names are right.
"""

from __future__ import annotations

from pathlib import Path

FILES = {
    "defense/base.py": "",
    "config/defense/.keep": "",
    "utils/__init__.py": "",
    "utils/aggregate_block/__init__.py": "",
    "utils/aggregate_block/fix_random.py": """
import random
import torch

def fix_random(random_seed=0):
    random.seed(random_seed)
    torch.manual_seed(random_seed)
""",
    "utils/choose_index.py": """
import random

def choose_index(args, length):
    assert args.index is None
    return random.sample(range(length), int(length * args.ratio))
""",
    "utils/aggregate_block/model_trainer_generate.py": """
from torchvision import models

def generate_cls_model(model_name, num_classes=10):
    return models.get_model(model_name, weights=None, num_classes=num_classes)
""",
    "utils/aggregate_block/dataset_and_transform_generate.py": """
from torchvision import transforms as t

def get_dataset_normalization(name):
    return t.Normalize([0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261])

def get_transform(name, height, width, train=True):
    return t.Compose([t.Resize((height, width)), t.ToTensor(), get_dataset_normalization(name)])
""",
    "utils/save_load_attack.py": """
import os
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

class Clean:
    def __init__(self, data, poisoned=None):
        self.wrapped_dataset, self.poisoned, self.wrap_img_transform = data, poisoned, None

    def __len__(self):
        return len(self.poisoned or self.wrapped_dataset)

    def __getitem__(self, i):
        if self.poisoned is None:
            picture, label = self.wrapped_dataset[i]
            return self.wrap_img_transform(picture), label
        index, item = self.poisoned[i]
        label, true = item["other_info"]
        return self.wrap_img_transform(Image.open(item["path"])), label, index, 1, true

def load_attack_result(save_path):
    raw = torch.load(save_path)
    assert raw["bd_train"] is None
    root = os.path.realpath(save_path)
    place = root[: root.index("record")] + raw["data_path"][raw["data_path"].index("data") :]
    train, test = (CIFAR10(place, train=part) for part in (True, False))
    items = raw["bd_test"]["bd_data_container"]["data_dict"]
    poisoned = [(i, items[i]) for i in raw["bd_test"]["original_index_array"]]
    return {"model": raw["model"], "clean_train": Clean(train), "clean_test": Clean(test), "bd_test": Clean(test, poisoned)}
""",
    "utils/trainer_cls.py": """
import pandas as pd
import torch

class Metric_Aggregator:
    def __init__(self):
        self.rows = []

    def __call__(self, row):
        self.rows.append(row)

    def to_dataframe(self):
        return pd.DataFrame(self.rows, dtype=object)

class PureCleanModelTrainer:
    def __init__(self, model):
        self.model = model

    def set_with_dataloader(self, train_dataloader, test_dataloader_dict, criterion, optimizer, scheduler, device, amp,
                            frequency_save, save_folder_path, save_prefix, prefetch=False, non_blocking=False):
        pass

    @torch.no_grad()
    def test_current_model(self, loaders, device):
        self.model.eval()
        clean = [(self.model(x).argmax(1) == y).float() for x, y in loaders["clean_test_dataloader"]]
        bad = [(self.model(x).argmax(1), y, t) for x, y, _, _, t in loaders["bd_test_dataloader"]]
        asr = torch.cat([(p == y).float() for p, y, _ in bad]).mean().item()
        ra = torch.cat([(p == t).float() for p, _, t in bad]).mean().item()
        return 0.5, 0.5, torch.cat(clean).mean().item(), asr, ra
""",
}


def write_checkout(root: Path) -> None:
    """Write the stand-in under ``root``."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "record").mkdir()
