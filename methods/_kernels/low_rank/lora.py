"""Recovery by low-rank adapters on the thin factors (peft), merged afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.core import Context, Measurement, NotFinite
from methods._kernels.low_rank.curvature import likelihood


@dataclass(frozen=True, kw_only=True)
class Lora:
    """How adapters are trained; the defaults are those of SVD-LLM's script.

    Args:
        rank: Of the adapters.
        alpha: Their scale is ``alpha / rank``.
        learning_rate: Of AdamW, rising over the first windows and constant after.
        epochs: Passes over the calibration windows, for each of the two factors.
        batch: Windows a step.
        warmup: Steps over which the learning rate rises.
        order: Which factors are trained first, while the others are frozen.
    """

    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 1e-4
    epochs: int = 3
    batch: int = 4
    warmup: int = 10
    order: tuple[str, str] = ("right", "left")

    def __post_init__(self) -> None:
        """Refuse orders that are none.

        Raises:
            ValueError: If ``order`` does not name both factors.
        """
        if sorted(self.order) != ["left", "right"]:
            raise ValueError(f"order {list(self.order)} is not left and right")


def recover(net: nn.Module, lora: Lora, ctx: Context) -> nn.Module:
    """Train adapters on one factor, merge them, then on the other.

    Args:
        net: With low-rank layers; it is the caller's own.
        lora: How.
        ctx: Gives the windows, the order of the batches, and keeps the training curve.

    Returns:
        The network with merged weights, of the size it had.
    """
    from peft import LoraConfig, get_peft_model

    for stage, factor in enumerate(lora.order):
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=r".*\.left" if factor == "left" else r".*\.right\.linear",
            task_type="CAUSAL_LM",
        )
        adapted: Any = get_peft_model(net, config)
        _train(adapted, lora, ctx, stage)
        net = adapted.merge_and_unload()
    return net.eval().requires_grad_(True)


def _train(net: Any, lora: Lora, ctx: Context, stage: int) -> None:
    tokens = ctx.calibration().tokens
    device = next(net.parameters()).device
    order = ctx.stream(f"lora {stage}")
    weights = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lora.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1, lora.warmup))
    )
    for epoch in range(lora.epochs):
        losses = []
        for batch in torch.randperm(len(tokens), generator=order).split(lora.batch):
            for window in tokens[batch].to(device):
                logits = net(input_ids=window[None], use_cache=False).logits
                loss = likelihood(logits, window[None])
                if not bool(loss.isfinite()):
                    raise NotFinite(f"the loss of LoRA epoch {epoch} is {loss}")
                (loss / len(batch)).backward()
                losses.append(float(loss.detach()))
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        step = stage * lora.epochs + epoch
        mean = sum(losses) / len(losses)
        ctx.record(
            Measurement(
                metric="recovery_loss", value=mean, unit="nats/token", step=step
            )
        )
