"""Digits and small networks for the tests of early exits."""

import torch

from harness.core import Context
from harness.models.digits_convnet import DigitsConvnet
from tasks.digits import Digits

SHAPE = {"classes": 10, "input": [1, 8, 8]}


def context(plugin=None) -> Context:
    """A context with an untrained network, by default the one with convolutions."""
    model = (plugin or DigitsConvnet()).build(SHAPE, 0)
    return Context(
        model=model, seed=0, device=torch.device("cpu"), data=Digits().data()
    )
