"""The loop itself: steps, evaluation, checkpoints, metrics, stop and exact resume."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shoal.errors import ShoalError, UsageError
from shoal_earth.training.average import Average
from shoal_earth.training.checkpoint import load_checkpoint, save_checkpoint
from shoal_earth.training.data import Batches
from shoal_earth.training.distributed import Ranks, get_rng_state, seed_everything, set_rng_state
from shoal_earth.training.optim import Schedule
from shoal_earth.training.precision import autocast, check_precision

__all__ = ["Fit", "Loop", "Stopped", "to_device"]

_log = logging.getLogger(__name__)
# Checkpoints take a twentieth of the time at most, however large they are and however slow their folder.
_BETWEEN = 19


class Stopped(ShoalError):
    """A stop was asked for; the state is saved and a new start goes on from here."""

    exit_code = 143


@dataclass(frozen=True)
class Loop:
    """How to train.

    Args:
        epochs: passes over the training data.
        monitor: the metric of ``evaluate`` that decides which state is ``best``.
        goal: ``max`` or ``min``.
        seed: of everything random during training.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast; ``fp16`` with gradient scaling).
        clip: largest norm of the gradient, or None.
        ema: decay of an exponential moving average of the weights, or None. Where there is one, it is what is evaluated and kept.
        evaluate_every: epochs between two evaluations; the last step is always evaluated.
        log_every: steps between two lines of training metrics; by default once an epoch.
        save_every: seconds between two checkpoints to resume from; more where writing one takes more than a twentieth of that.
        channels_last: memory layout of images, faster for convolutions.
    """

    epochs: int
    monitor: str
    goal: str = "max"
    seed: int = 0
    precision: str = "fp32"
    clip: float | None = None
    ema: float | None = None
    evaluate_every: int = 1
    log_every: int | None = None
    save_every: float = 30.0
    channels_last: bool = False

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.goal not in ("max", "min"):
            raise UsageError(f'the goal is "max" or "min", not "{self.goal}"')
        if self.epochs < 1 or self.evaluate_every < 1:
            raise UsageError("epochs must be at least 1")


def to_device(batch: Any, device: torch.device, *, channels_last: bool = False) -> Any:
    """Move the tensors in lists, tuples and dicts to a device; 4-D ones to channels-last memory if asked for."""
    if isinstance(batch, torch.Tensor):
        if channels_last and batch.ndim == 4:
            return batch.to(device, non_blocking=True, memory_format=torch.channels_last)
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device, channels_last=channels_last) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        moved = [to_device(value, device, channels_last=channels_last) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


@dataclass
class _Window:
    """Sums since the last line of metrics; kept on the device, so that a step never waits for them."""

    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: int = 0
    images: int = 0
    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0


class Fit:
    """One training run of one model.

    Args:
        model: on the device already; wrapped in ``DistributedDataParallel`` here when there are several ranks.
        optimizer: over the model's parameters; the learning rates of its groups are the base of the schedule.
        schedule: factor on these, by step.
        batches: what to train on.
        losses: ``(model, batch) -> {"loss": total, ...}``; the other entries are only logged.
        evaluate: ``(model) -> {"val/iou": 0.7, ...}``: called on every rank and must return the same on all
            (see :meth:`Ranks.sum`).
        config: how to train.
        ranks: this process among the others.
        task: Shoal's task, or anything with ``log(metrics, step=)`` and ``stopping``.
        checkpoints: folder of ``last.pt`` (to resume from) and ``best.pt`` (weights).
        meta: plain values stored with the weights, enough to build the model again.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        batches: Batches,
        losses: Callable[[nn.Module, Any], Mapping[str, torch.Tensor]],
        evaluate: Callable[[nn.Module], Mapping[str, float]],
        *,
        config: Loop,
        ranks: Ranks,
        task: Any,
        checkpoints: Path,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.ranks, self.task, self.meta = config, ranks, task, dict(meta or {})
        self.optimizer, self.schedule, self.batches = optimizer, schedule, batches
        self.losses, self.evaluate = losses, evaluate
        self.folder = Path(checkpoints)
        self.module = model.to(memory_format=torch.channels_last) if config.channels_last else model
        self.model: nn.Module = self.module
        if ranks.world > 1:
            ids = [ranks.device.index] if ranks.device.type == "cuda" else None
            self.model = nn.parallel.DistributedDataParallel(self.module, device_ids=ids)
        self.ema = Average(self.module, config.ema) if config.ema is not None else None
        check_precision(config.precision, ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16")
        self.total = config.epochs * batches.steps_per_epoch
        self.step = 0
        self.evaluated = 0
        self.best: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.base = [float(group["lr"]) for group in optimizer.param_groups]
        self._window = _Window()
        self._saved, self._saving = time.monotonic(), 0.0

    @property
    def answering(self) -> nn.Module:
        """The model to evaluate and keep: the moving average where there is one."""
        return self.module if self.ema is None else self.ema.module

    @property
    def epoch(self) -> int:
        """The epoch of the step that comes next, from 0."""
        return self.step // self.batches.steps_per_epoch

    def run(self) -> dict[str, Any]:
        """Train to the end, from ``last.pt`` if there is one.

        Returns:
            ``{"step", "metric", "value"}`` of the best state, with all its metrics under ``metrics``.

        Raises:
            Stopped: the task was asked to stop; the state is saved.
            ShoalError: the loss is no longer a number, or ``evaluate`` did not return the metric to monitor.
        """
        try:
            self._run()
        finally:
            # The process group ends only when nothing holds it.
            self.model = self.module
        return self.best

    def _run(self) -> None:
        seed_everything(self.config.seed * 1000 + self.ranks.rank)
        self.resume()
        per_epoch = self.batches.steps_per_epoch
        every = self.config.log_every or per_epoch
        self._evaluate_if_due()
        stream = self.batches.stream(self.step, self.total)
        self.model.train()
        self._window.started = time.perf_counter()
        while self.step < self.total:
            self._train_step(stream)
            if self.step % every == 0 or self.step == self.total:
                self._log_training()
            if self.ranks.any(bool(self.task.stopping)) and self.step < self.total:
                self.save()
                raise Stopped(
                    f"stopped at step {self.step} of {self.total}; the state is saved, a new start goes on from here"
                )
            self._evaluate_if_due()
            # All ranks must agree, and their clocks do not: the first one's decides.
            apart = max(self.config.save_every, _BETWEEN * self._saving)
            if self.ranks.any(self.ranks.main and time.monotonic() - self._saved > apart):
                self.save()
        self.save()

    def complete(self, folder: Path) -> dict[str, Any]:
        """Train to the end, leave ``last.pt`` and ``best.pt`` in a folder, and log which state was the best.

        Returns and raises what :meth:`run` does, but on the main rank alone, so that what follows is said once;
        returns when every rank is here.
        """
        best = self.run()
        self.publish(folder)
        if self.ranks.main and best:
            self.task.log({"best/step": best["step"], f"best/{best['metric']}": best["value"]})
        self.ranks.barrier()
        return best if self.ranks.main else {}

    def _train_step(self, stream: Any) -> None:
        device, parts = self.ranks.device, self.batches.accumulate
        factor = self.schedule(self.step)
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        window = self._window
        for part in range(parts):
            asked = time.perf_counter()
            batch = to_device(next(stream), device, channels_last=self.config.channels_last)
            window.waited += time.perf_counter() - asked
            # Gradients travel between processes once a step, with its last part.
            quiet = self.ranks.world > 1 and part < parts - 1
            with self.model.no_sync() if quiet else nullcontext():  # type: ignore[operator]
                losses = self._losses(batch)
                self.scaler.scale(losses["loss"] / parts).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                value = value.detach().float() / parts
                window.losses[name] = window.losses[name] + value if name in window.losses else value
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.module, self.step)
        self.step += 1
        window.steps += 1
        window.images += self.batches.per_step

    def _losses(self, batch: Any) -> Mapping[str, torch.Tensor]:
        try:
            with autocast(self.ranks.device, self.config.precision):
                return self.losses(self.model, batch)
        except (RuntimeError, ValueError):
            # A model may refuse numbers that are none, as DETR's matching does: the loss was none before.
            if "loss" in self._window.losses:
                self._check(float(self._window.losses["loss"]))
            raise

    def _log_training(self) -> None:
        window, self._window = self._window, _Window()
        if not window.steps:
            return
        names = sorted(window.losses)
        sums = self.ranks.sum(torch.stack([window.losses[n].double() for n in names]))
        means = {n: float(s) / window.steps / self.ranks.world for n, s in zip(names, sums, strict=True)}
        self._check(means["loss"])
        elapsed = max(time.perf_counter() - window.started, 1e-9)
        if self.ranks.main:
            train = {f"train/{name}": value for name, value in means.items()}
            train["train/lr"] = self.optimizer.param_groups[0]["lr"]
            train["speed/images_per_second"] = window.images / elapsed
            train["speed/data_wait_share"] = window.waited / elapsed
            self.task.log(train, step=self.step)

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise ShoalError(
                f"the loss is {loss} at step {self.step} of {self.total}",
                hint="A lower learning rate, a warm-up or gradient clipping keeps it finite.",
            )

    def _evaluate_if_due(self) -> None:
        due = self.step == self.total or self.step % (self.batches.steps_per_epoch * self.config.evaluate_every) == 0
        if self.step == 0 or not due or self.evaluated == self.step:
            return
        asked = time.perf_counter()
        model = self.answering
        model.eval()
        with torch.no_grad():
            # Running means of norms differ from rank to rank; what is kept, and so what is scored, are the main one's.
            self.ranks.share(model.buffers())
            metrics = {name: float(value) for name, value in self.evaluate(model).items()}
        self.model.train()
        if self.config.monitor not in metrics:
            raise ShoalError(
                f"the metric to monitor, {self.config.monitor}, is not among those evaluated: {', '.join(sorted(metrics))}"
            )
        self.metrics, self.evaluated = metrics, self.step
        value = metrics[self.config.monitor]
        # A tie keeps the earlier state; a metric that is not a number never wins.
        sign = 1 if self.config.goal == "max" else -1
        better = not self.best or sign * value > sign * self.best["value"]
        if math.isfinite(value) and better:
            self.best = {"step": self.step, "metric": self.config.monitor, "value": value, "metrics": metrics}
            self.save_weights(self.folder / "best.pt")
        if self.ranks.main:
            epoch = self.step / self.batches.steps_per_epoch
            _log.info(
                "step %d, epoch %.4g of %d: %s %.4f", self.step, epoch, self.config.epochs, self.config.monitor, value
            )
            self.task.log(metrics, step=self.step)
        # Time spent here is not the training's.
        self._window.started += time.perf_counter() - asked

    def save_weights(self, path: Path) -> None:
        """Write what is needed to use the model, without the state of training; on the main rank only."""
        if self.ranks.main:
            model = self.answering.state_dict()
            save_checkpoint(path, {"model": model, "meta": self.meta, "step": self.step, "metrics": self.metrics})

    def publish(self, folder: Path) -> None:
        """Leave ``last.pt`` and ``best.pt``, weights only, in a folder; on the main rank only."""
        self.save_weights(folder / "last.pt")
        best = self.folder / "best.pt"
        if self.ranks.main and best.exists():
            shutil.copyfile(best, folder / "best.pt")
        else:
            # Without one finite value of the metric, no state was ever the best: the last one stands in.
            self.save_weights(folder / "best.pt")

    def save(self) -> None:
        """Write ``last.pt``: everything that a new process needs to go on exactly here.

        Raises:
            ShoalError: the loss is no longer a number; the state before stays, since from this one nothing could go on.
        """
        begun = time.monotonic()
        window = {name: value.cpu() for name, value in self._window.losses.items()}
        of_ranks = self.ranks.gather({"rng": get_rng_state(), "losses": window})
        if window:
            self._check(sum(float(one["losses"]["loss"]) for one in of_ranks) / self._window.steps / self.ranks.world)
        if self.ranks.main:
            content = {
                "model": self.module.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "evaluated": self.evaluated,
                "best": self.best,
                "metrics": self.metrics,
                "window": self._window.steps,
                "ranks": of_ranks,
                "run": self._settings(),
                "meta": self.meta,
            }
            save_checkpoint(self.folder / "last.pt", content)
        self._saved = time.monotonic()
        self._saving = self._saved - begun

    def resume(self) -> bool:
        """Go on from ``last.pt`` if there is one; says whether there was."""
        path = self.folder / "last.pt"
        if not path.exists():
            return False
        state = load_checkpoint(path)
        if state["run"] != self._settings():
            changed = [
                f"{k}: {state['run'].get(k)} then, {v} now"
                for k, v in self._settings().items()
                if state["run"].get(k) != v
            ]
            raise UsageError(
                f"{path}: is the state of another run ({'; '.join(changed)})",
                hint="Remove the file to start anew, or train with the same settings.",
            )
        try:
            self.module.load_state_dict(state["model"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1].strip()[:200]
            raise UsageError(
                f"{path}: is the state of another model: {reason}",
                hint="Remove the file to start anew, or train the same model.",
            ) from None
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.best, self.metrics = state["best"], state["metrics"]
        mine = state["ranks"][self.ranks.rank]
        self._window = _Window({n: v.to(self.ranks.device) for n, v in mine["losses"].items()}, state["window"])
        set_rng_state(mine["rng"])
        if self.ranks.main:
            _log.info("going on from step %d of %d", self.step, self.total)
        return True

    def _settings(self) -> dict[str, Any]:
        """What must not change between start and resume."""
        return {
            "seed": self.config.seed,
            "steps": self.total,
            "examples": len(self.batches.examples),
            "batch": self.batches.per_step,
            "ranks": self.ranks.world,
            "precision": self.config.precision,
            "lr": self.base,
            "schedule": repr(self.schedule),
            "optimizer": type(self.optimizer).__name__,
            "clip": self.config.clip,
            "ema": self.config.ema,
        }
