"""Neural Cleanse: is the smallest trigger of one class too small?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mnp_plugin.contracts import DefenderView, DefenseContext, Detector, Verdict, concat, detectors, param
from mnp_plugin.training.trigger_inversion import Inversion, anomalies, invert


@detectors.register("neural_cleanse")
@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(Detector):
    """For each class the smallest patch that sends clean images there (``training.trigger_inversion``); the score is the anomaly
    index of the smallest, (median - norm) / (1.4826 MAD) over the classes, and its class the suspected target.

    As BackdoorBench f02e353, but batches of 32, which are the original's. Where the original differs: success is 0.99, the mask's
    size costs nothing until five passes succeeded, the search may end when the mask stops shrinking at all, and the median
    of an even number of classes is the mean of two. Deviation from both: values start uniform before tanh, so that the mask
    starts between 0.5 and 0.88 (the original's between 0 and 1, BackdoorBench's at 0.88). The authors' threshold is 2; with ten
    classes healthy nets pass it often. The defense ``nc`` goes on from here and unlearns what was found.
    """

    paper = "Wang et al., Neural Cleanse, IEEE S&P 2019, doi 10.1109/SP.2019.00031"
    least_classes = 3

    epochs: int = param(80, "largest number of passes for each class", low=1)
    lr: float = param(0.1, "learning rate of mask and pattern", above=0)
    batch_size: int = param(32, "images per step", low=2)
    cost: float = param(1e-3, "first weight of the mask's size", low=0)
    success: float = param(0.98, "share of images that a patch must turn", above=0, high=1)
    threshold: float | None = param(2.0, "anomaly index above which a net is called backdoored; null: no decision")

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        how = Inversion(epochs=self.epochs, lr=self.lr, cost=self.cost, success=self.success, batch_size=self.batch_size)
        images = concat([view.clean, view.validation])
        norms = []
        for label in range(view.num_classes):
            mask, _ = invert(view.model, images, label, how, tools)
            norms.append(mask.sum())
            tools.busy("triggers inverted", label + 1, view.num_classes)
        sizes = torch.stack(norms)
        index = anomalies(sizes)
        return Verdict(
            score=float(index.max()),
            per_class=tuple(index.tolist()),
            suspected=int(sizes.argmin()),
            threshold=self.threshold,
            calibration="" if self.threshold is None else "the authors' threshold, calibrated on nothing of this kind",
            report={"mask_norms": [round(v, 4) for v in sizes.tolist()]},
        )
