"""The steps of a bundle: load, fit, compress, evaluate, each as rarely as possible."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from harness.core import Context, Measurement, Model, Trained, Unsupported
from harness.planning.messages import Built, Job
from harness.planning.plan import (
    Artifact,
    configured,
    is_exclusive,
    trained,
    training_key,
)
from harness.planning.trial import Trial, digest
from harness.registry import facts, find
from harness.running import measurements, networks, rows
from harness.running.artifacts import (
    calibration,
    load_model,
    refuse_partial,
    same_data,
    same_model,
    seed_everything,
    task_data,
)
from harness.running.failures import (
    ArtifactFailed,
    Damaged,
    Failed,
    Failure,
    Interrupted,
    StoreFailed,
    check_space,
    classify,
    store_io,
)
from harness.running.seal import Seal
from harness.running.step_sign import StepSign
from harness.toolkit import devices, host_memory, model_size, spread
from harness.toolkit.calibration import Calibration
from harness.toolkit.experts import Routed
from harness.toolkit.layer_sizes import LayerSize, layer_sizes
from results.storage.store import Store


@dataclass(slots=True, kw_only=True)
class _Compressed:
    """A network at one ratio, measured."""

    ratio: float
    net: nn.Module
    size: model_size.Size
    layers: tuple[LayerSize, ...]  # none where the network is as large as the dense one
    seconds: float
    recorded: tuple[Measurement, ...]
    trained: Trained
    kept: str | None = None  # id of the artifact with this network


@dataclass(slots=True, kw_only=True)
class Steps:
    """The steps of a bundle: what one trial has computed, the next ones use."""

    job: Job
    store: Store
    built: tuple[Built, ...]
    sign: StepSign | None = None  # says which step runs, to those who watch
    broken: Failure | None = None  # loading or fitting failed: all trials fail
    model: Model | None = None
    dense: model_size.Size | None = None
    coverage: float | None = None
    fitted: Any = None
    is_fitted: bool = False
    fit_seconds: float = 0.0
    fit_recorded: tuple[Measurement, ...] = ()
    fit_trained: Trained = field(default_factory=Trained)
    routed: Mapping[str, Routed] = field(default_factory=dict)  # what experts saw
    shared: Seal | None = None  # of the dense network and the fitted object
    current: _Compressed | None = None
    scratch: Path | None = None
    refused: dict[float, Failure] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The ratio of the compressed network that is ready, None if there is none."""
        return None if self.current is None else self.current.ratio

    def layers(self, trial: Trial) -> tuple[LayerSize, ...]:
        """The layers of the network that a trial measured, if it was made."""
        made = self.current
        return made.layers if made is not None and made.ratio == trial.ratio else ()

    def execute(self, trial: Trial, row: dict[str, Any]) -> list[Measurement]:
        """Measure one trial.

        Args:
            trial: One of the bundle's trials.
            row: Gets the columns of each step that ended.

        Returns:
            The checked measurements.

        Raises:
            Failed: If a step failed that this trial shares with others.
            StoreFailed: If the store failed.
            Interrupted: If a person pressed Ctrl-C.
        """
        # A bundle whose model does not load or whose fit fails fails once; repeating it
        # for every trial would take as long each time.
        if self.broken is not None:
            raise Failed(self.broken)
        try:
            self.ready(trial)
        # They end the run. Everything else is this bundle's own failure.
        except (StoreFailed, Interrupted):
            raise
        except BaseException as error:
            check_space(error, self.store)
            self.broken = classify(error)
            raise Failed(self.broken) from None
        # Columns are entered as soon as they are known, so that the row of a trial that
        # fails later has them.
        row["fit_seconds"] = self.fit_seconds
        row["placement"] = self._placement()
        self._refuse_speed(trial)
        row |= rows.dense_columns(self.dense)
        made = self.compressed(trial)
        row["compress_seconds"] = made.seconds
        row["trained_epochs"] = self.fit_trained.epochs + made.trained.epochs
        row["trained_samples"] = self.fit_trained.samples + made.trained.samples
        row |= measurements.columns(
            {
                **rows.size_columns(made.size, self.dense),
                "achieved_ratio": self._achieved(trial, made),
                "coverage": _last(made, "coverage", self.coverage),
            }
        )
        row["network"] = self._kept(trial, made)
        began = time.perf_counter()
        with self._said(trial, "evaluating"):
            found = self._evaluate(trial, made.net)
        row["evaluate_seconds"] = time.perf_counter() - began
        # The task first: its first ranked number is the primary metric.
        return measurements.joined(
            found,
            self.fit_recorded,
            made.recorded,
            measurements.of_experts(self.routed),
        )

    def ready(self, trial: Trial) -> None:
        """Load and fit, the first time and after damage."""
        # Artifacts first: without them the model cannot be loaded, and the reason is
        # theirs.
        if self.model is None:
            for built in self.built:
                if built.error is not None:
                    raise ArtifactFailed(
                        f"{built.artifact} could not be built: {built.error}",
                        built.error_class or "bug",
                    )
            with self._said(trial, "loading"):
                self.model = load_model(
                    trial.model,
                    trial.dtype,
                    self.store,
                    self._artifact("dense"),
                    placement=self.job.bundle.resources.placement,
                    gpus=self.job.bundle.resources.gpus or 0.0,
                )
                self.coverage = refuse_partial(trial, self.model)
                self.dense = model_size.size(self.model)
        if self.is_fitted:
            return
        method = configured("method", trial.method)
        if hasattr(method, "fit"):
            with self._said(trial, "fitting"):
                self._fit(method, trial)
        # From here on all trials of the bundle read these objects. ``compress`` and
        # ``evaluate`` are checked against this seal.
        self.shared = Seal.of(dense=self.model.net, fitted=self.fitted)
        self.is_fitted = True

    def _said(self, trial: Trial, step: str) -> contextlib.AbstractContextManager[None]:
        if self.sign is None:
            return contextlib.nullcontext()
        return self.sign.during(trial.id, step)

    def _placement(self) -> str:
        assert self.model is not None
        if host_memory.of(self.model.net) is not None:
            return "blockwise"
        return "devices" if len(spread.devices_of(self.model.net)) > 1 else "device"

    def _refuse_speed(self, trial: Trial) -> None:
        """Refuse to time a network whose blocks are copied to a device at each pass."""
        assert self.model is not None
        host = host_memory.of(self.model.net)
        if is_exclusive(trial.task) and host is not None and host.residency is not None:
            raise Unsupported(
                f"{trial.task.name} would measure how fast blocks are copied to the "
                "device: measure it with `placement: device`, on as many `gpus` as "
                "hold the network"
            )

    def _fit(self, method: Any, trial: Trial) -> None:
        assert self.model is not None
        dense = Seal.of(dense=self.model.net)
        # Each step has a seed of its own, which does not depend on what ran before it:
        # a trial gives the same numbers in a bundle, alone, and after a retry.
        seed_everything(trial.seed, "fit")
        ctx = self._context(trial, "fit")
        began = time.perf_counter()
        self.fitted = method.fit(self.model, ctx)
        # CUDA runs asynchronously: without this the clock would stop before the work
        # does.
        devices.synchronize(ctx.device)
        self.fit_seconds = time.perf_counter() - began
        self.fit_recorded = tuple(measurements.checked(ctx.recorded))
        self.fit_trained = ctx.trained
        self._refuse_damage(dense, f"fit of {trial.method.name}")

    def _refuse_damage(self, seal: Seal | None, step: str) -> None:
        """Fail the trial whose plugin changed what other trials use.

        Args:
            seal: Taken before the step.
            step: The step in words.

        Raises:
            Damaged: If something changed. The next trial loads and fits again.
        """
        where = None if seal is None else seal.broken()
        if where is None:
            return
        # Nothing of what may be damaged is used again; the next trial pays for a new
        # load.
        self.model = self.dense = self.fitted = self.shared = self.current = None
        self.is_fitted = False
        raise Damaged(
            f"the {step} changed {where}, which other trials use; change a copy "
            "(ctx.dense() makes one of the network)"
        )

    def _artifact(self, kind: str) -> Artifact | None:
        return next((a for a in self.job.bundle.artifacts if a.kind == kind), None)

    def _context(self, trial: Trial, key: str) -> Context:
        assert self.model is not None
        statistics, dense = self._artifact("calibration"), self._artifact("dense")
        return Context(
            model=self.model,
            seed=trial.seed,
            device=devices.pick(),
            data=None if dense is None else task_data(trial.task),
            scratch=self._scratch(trial),
            calibrate=(
                None if statistics is None else lambda: self._statistics(statistics)
            ),
            checkpoint_key=key,
        )

    def _statistics(self, artifact: Artifact) -> Calibration:
        found = calibration(artifact, self.store)
        self.routed = found.routed
        return found

    def _scratch(self, trial: Trial) -> Path:
        """A folder for checkpoints, the same for all runs of a bundle."""
        if self.scratch is None:
            # Everything that decides what is trained: a checkpoint of other data, of
            # another dtype or of other code is never resumed, nor written to.
            known = trial.identity()
            same = [known.get(k) for k in ("method", "model", "seed", "dtype")]
            data = training_key(trial.task) if trained(trial.model) else ""
            code = rows.code_digest(trial.method, trial.task, trial.model)
            name = digest([*same, trial.calibration, data, code])
            with store_io():
                self.scratch = self.store.scratch(f"{trial.method.name}-{name}")
        return self.scratch

    def compressed(self, trial: Trial) -> _Compressed:
        """The network at the trial's ratio; the previous network is released."""
        # Another task at a ratio that failed would only repeat the compression to fail
        # again.
        if trial.ratio in self.refused:
            raise Failed(self.refused[trial.ratio])
        if self.current is not None and self.current.ratio == trial.ratio:
            return self.current
        # Released before the next network is made, so that never two of them are in
        # memory.
        self.current = None
        try:
            try:
                with self._said(trial, "compressing"):
                    self.current = self._compress(trial)
            finally:  # a method that fails half way may have changed something too
                self._refuse_damage(self.shared, f"compress of {trial.method.name}")
        except (StoreFailed, Interrupted):
            raise
        except BaseException as error:
            check_space(error, self.store)
            self.refused[trial.ratio] = classify(error)
            raise Failed(self.refused[trial.ratio]) from None
        return self.current

    def _compress(self, trial: Trial) -> _Compressed:
        assert self.model is not None
        seed_everything(trial.seed, f"compress {trial.ratio!r}")
        ctx = self._context(trial, f"ratio-{trial.ratio!r}")
        method = configured("method", trial.method)
        began = time.perf_counter()
        # The time includes the move to the device, until the device has finished.
        net = method.compress(self.fitted, trial.ratio, ctx)
        net = host_memory.to(net, ctx.device).eval()
        devices.synchronize(ctx.device)
        seconds = time.perf_counter() - began
        counts = model_size.count(net)
        size = model_size.size(self.model.with_net(net), counts)
        layers = layer_sizes(self.model, net, counts) if size != self.dense else ()
        return _Compressed(
            ratio=trial.ratio,
            net=net,
            size=size,
            layers=tuple(layers),
            seconds=seconds,
            recorded=tuple(measurements.checked(ctx.recorded)),
            trained=ctx.trained,
        )

    def _kept(self, trial: Trial, made: _Compressed) -> str | None:
        """Store the network if the run asks for it; trials of one network share it."""
        if self.job.keep_models and made.kept is None:
            assert self.model is not None
            dense = self._artifact("dense")
            shape = None if dense is None else task_data(trial.task).shape
            # Before the evaluation: a network that cannot be saved fails early.
            with devices.left_out(devices.pick()):
                made.kept = networks.keep(
                    self.store,
                    self.job.attempts[trial.id],
                    trial,
                    self.model.with_net(made.net),
                    shape,
                )
        return made.kept

    def _achieved(self, trial: Trial, made: _Compressed) -> float | None:
        assert self.model is not None
        assert self.dense is not None
        own = _last(made, "achieved_ratio", None)
        if own is not None:
            return own
        plugin = find("method", trial.method.plugin)
        method = configured("method", trial.method)
        ratio_of = facts(plugin, method)["ratio_of"]
        return model_size.achieved(
            ratio_of, self.model, made.net, (self.dense, made.size)
        )

    def _evaluate(self, trial: Trial, net: nn.Module) -> list[Measurement]:
        assert self.model is not None
        same_data(trial.task)
        seed_everything(trial.seed, f"evaluate {trial.task.label}")
        # The task gets the network itself, not a copy, which could double the memory.
        # The seal shows if the task changed it: other tasks of this ratio measure it
        # next.
        task, measured = configured("task", trial.task), Seal.of(network=net)
        try:
            found = measurements.checked_task(task.evaluate(self.model.with_net(net)))
            same_data(trial.task)  # a file may have changed while it was read
            if self._artifact("dense") is None:
                same_model(trial.model)
            return found
        finally:
            step = f"evaluation of {trial.task.name}"
            self._refuse_damage(measured, step)
            self._refuse_damage(self.shared, step)


def _last(made: _Compressed, metric: str, default: float | None) -> float | None:
    """What the method recorded itself under a name, or a default."""
    own = [m.value for m in made.recorded if m.metric == metric]
    return own[-1] if own else default
