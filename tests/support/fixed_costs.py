"""A predictor whose costs are stated by the test instead of learnt."""

from collections.abc import Callable
from typing import Any

from harness.planning.plan import Bundle
from harness.scheduling.hardware import CPU, Device, parse
from harness.scheduling.interval import Interval
from harness.scheduling.packing import Packer
from harness.scheduling.predictor import Need, Predictor

GB = 10**9


class FixedCosts(Predictor):
    """Each trial takes ``each`` seconds after ``setup``; peaks as stated."""

    def __init__(
        self,
        *,
        setup: float = 0.0,
        each: float | Callable[[Bundle], float] = 1.0,
        device: float = 1.0 * GB,
        host: float = 1.0 * GB,
        known: bool = True,
        guessed: bool = False,
        artifact: float = 0.0,
    ) -> None:
        super().__init__()
        self.setup, self.each, self.peaks = setup, each, (device, host)
        self.known, self.guessed, self.building = known, guessed, artifact

    def bundle(self, bundle: Bundle, device: Device = CPU) -> Need:
        each = self.each(bundle) if callable(self.each) else self.each
        seconds = self.setup + each * len(bundle.trials)
        device_peak, host_peak = self.peaks
        return Need(
            seconds=Interval(seconds / 2, seconds, 2 * seconds),
            setup=self.setup,
            device=Interval(0.0, device_peak, device_peak),
            host=Interval(0.0, host_peak, host_peak),
            known=self.known,
            guessed=self.guessed,
        )

    def artifact(self, artifact, device: Device = CPU) -> Interval:
        return Interval(self.building, self.building, self.building)


def packer(cluster: str, **costs: Any) -> Packer:
    """A packer for a cluster, such as ``4xCPU``, whose trials cost what is stated."""
    return Packer(cluster=parse(cluster), predictor=FixedCosts(**costs))
