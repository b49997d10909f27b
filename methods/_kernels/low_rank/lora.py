"""Recovery by low-rank adapters on the thin factors (peft), merged afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.core import Context, Measurement, NotFinite
from harness.toolkit.devices import cast
from harness.toolkit.host_memory import compute_device
from methods._kernels.low_rank.curvature import likelihood


@dataclass(frozen=True, kw_only=True)
class Lora:
    """How adapters are trained; rank, alpha, rate and epochs are SVD-LLM's defaults.

    An adapter adds ``(alpha / rank) B A`` to a frozen factor, with A and B of the given
    rank trained by AdamW.

    Args:
        rank: Rank of the adapters.
        alpha: Numerator of the adapters' scale.
        learning_rate: Rate of AdamW after the warm-up; constant from then on.
        epochs: Passes over the calibration windows, for each of the two factors.
        batch: Windows per optimizer step.
        warmup: Steps over which the learning rate rises linearly.
        order: Which factor is trained first; the other one is frozen meanwhile.
    """

    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 1e-4
    epochs: int = 3
    batch: int = 4
    warmup: int = 10
    order: tuple[str, str] = ("right", "left")

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: If ``order`` does not name both factors.
        """
        if sorted(self.order) != ["left", "right"]:
            raise ValueError(f"order {list(self.order)} is not left and right")


def recover(net: nn.Module, lora: Lora, ctx: Context) -> nn.Module:
    """Train adapters on one factor, merge them, then on the other.

    Args:
        net: A network with low-rank layers; changed in place.
        lora: Training recipe of the low-rank adapters.
        ctx: Gives the windows and the order of the batches; records the training curve.

    Returns:
        The network with the adapters merged, of the size that it had before.
    """
    from peft import LoraConfig, get_peft_model

    dtype = next(net.parameters()).dtype
    if dtype == torch.float16:  # its gradients would round to zero; see differentiable
        cast(net, torch.float32)
    for stage, factor in enumerate(lora.order):
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            # Paths of the two layers within `LowRank`.
            target_modules=r".*\.left" if factor == "left" else r".*\.right\.linear",
            task_type="CAUSAL_LM",
        )
        adapted: Any = get_peft_model(net, config)
        _train(adapted, lora, ctx, stage)
        net = adapted.merge_and_unload()
    return cast(net, dtype).eval().requires_grad_(True)


def _train(net: Any, lora: Lora, ctx: Context, stage: int) -> None:
    tokens = ctx.calibration().tokens
    device = compute_device(net)
    order = ctx.stream(f"lora {stage}")
    weights = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lora.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1, lora.warmup))
    )
    ctx.trained.add(lora.epochs, lora.epochs * len(tokens))
    for epoch in range(lora.epochs):
        losses = []
        for batch in torch.randperm(len(tokens), generator=order).split(lora.batch):
            for window in tokens[batch].to(device):
                logits = net(input_ids=window[None], use_cache=False).logits
                loss = likelihood(logits, window[None])
                if not bool(loss.isfinite()):
                    raise NotFinite(f"the loss of LoRA epoch {epoch} is {loss}")
                # One window at a time, so that the activations of one are alive; the
                # gradients of a batch add up to those of its mean loss.
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
