"""Shows the progress of a run: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from harness.planning.messages import Event, Job
from harness.planning.trial import Trial
from harness.scheduling.interval import format_duration
from results.boards.running_now import seconds_left
from results.outcomes import FINISHED, Status
from results.text.counts import counted

LINES_A_SECOND = 5.0  # of plain output; quick trials are counted together
_LOOK = 2.0  # seconds between two looks at the steps of trials
_LEADERS = 4  # places whose best trial is shown


class View:
    """Watches a run; use as a context.

    Args:
        total: How many trials will run.
        console: Where to write; a terminal gets the live view.
        expected: Forecast of the seconds of the whole run; None if there is none.
        steps: Returns which step each trial is in (trial -> step), from the store; it
            is called at most every ``_LOOK`` seconds.
    """

    def __init__(
        self,
        total: int,
        console: Console,
        expected: float | None = None,
        steps: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.total = total
        self.expected = expected
        self.console = console
        self._ended: dict[str, str] = {}  # trial -> status of its last attempt
        self.live: Live | None = None
        self._running: dict[str, tuple[Trial, float]] = {}
        self._warned: set[str] = set()
        self._stopping = ""
        self._took: deque[float] = deque(maxlen=20)
        self._last: deque[Text] = deque(maxlen=3)
        self._failures: deque[Text] = deque(maxlen=3)
        # Model, task and ratio -> the best trial so far, and how many were measured.
        self._best: dict[tuple[str, str, float], tuple[Trial, Event, int]] = {}
        self._steps = steps
        self._in_step: Mapping[str, str] = {}
        self._looked = 0.0
        self._began = time.monotonic()
        self._spoke = 0.0
        self._silent = 0
        self._bar = Progress(
            TextColumn("[bold]trials[/]"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("trials", total=total, pace="")

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(
                get_renderable=self._render, console=self.console, refresh_per_second=4
            )
            self.live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.__exit__(kind, error, where)
        elif self._silent:
            self._say(Text(f"... and {self._silent} more"))

    def event(self, job: Job, trial: Trial, event: Event) -> None:
        """Note that a trial started or ended."""
        del job
        if event.what == "started":
            self._running[trial.id] = (trial, time.monotonic())
            self._ended.pop(trial.id, None)  # another attempt
            return
        self._running.pop(trial.id, None)
        self._warn(trial, event.warning)
        self._ended[trial.id] = event.status
        self._took.append(event.seconds)
        self._compare(trial, event)
        if event.status not in FINISHED:
            self._failures.append(self._line(trial, event))
        else:
            self._last.append(self._line(trial, event))
        if self.live is None and self._speaks(always=event.status != Status.OK):
            self._speak(self._line(trial, event))

    def _compare(self, trial: Trial, event: Event) -> None:
        """Keep the best trial of each model, task and ratio.

        Neither dense nor a trial that only guesses is one.
        """
        if event.value is None or event.at_chance or trial.method.name == "dense":
            return
        place = (trial.model.label, trial.task.label, trial.ratio)
        best, found, count = self._best.pop(place, (trial, event, 0))
        assert found.value is not None
        sign = 1 if event.goal == "max" else -1
        if sign * event.value > sign * found.value:
            best, found = trial, event
        self._best[place] = (best, found, count + 1)  # the newest place is the last

    def _leaders(self) -> list[Text]:
        """The best so far, where several were measured: a line for each place."""
        known = [(at, *one) for at, one in self._best.items() if one[2] > 1]
        return [
            Text.assemble(
                (f"best of {count} so far ", "dim"),
                (best.method.label, "bold"),
                f"  {event.summary}",
                (f"  {model}, {task}, ratio {ratio:g}", "dim"),
                no_wrap=True,
                overflow="ellipsis",
            )
            for (model, task, ratio), best, event, count in known[-_LEADERS:]
        ]

    def _warn(self, trial: Trial, warning: str) -> None:
        """Print a warning once for each model and task: other methods share it."""
        line = f"warning: {trial.model.label} on {trial.task.label}: {warning}"
        if warning and line not in self._warned:
            self._warned.add(line)
            self._say(Text(line, style="yellow"))

    @property
    def done(self) -> int:
        """Trials that ended and are not tried again."""
        return len(self._ended)

    def left(self) -> float | None:
        """Seconds until the end; None as long as nothing can be said."""
        elapsed = time.monotonic() - self._began
        return seconds_left(self.expected, self.total, self.done, elapsed)

    def pace(self) -> str:
        """Return the remaining time in words."""
        left = self.left()
        if left is None:
            return "waiting for the first result"
        if self.done >= self.total:
            return "finishing"
        return f"about {format_duration(left)} left"

    def stopping(self) -> None:
        """Say what an interrupted run waits for; a signal handler calls this."""
        if not self._running:
            waits = "stopping"
        else:
            waits = f"stopping after {counted(len(self._running), 'running trial')}"
            usual = sum(self._took) / len(self._took) if self._took else None
            if usual is not None:
                oldest = min(since for _, since in self._running.values())
                left = usual - (time.monotonic() - oldest)
                # One that takes longer than usual ends at a time that nobody knows.
                waits += f" (about {format_duration(left)})" if left > 0 else ""
        self._stopping = f"{waits}; Ctrl-C again stops now"
        # Not through rich, whose locks the interrupted code may hold.
        if self.live is None and not self.console.quiet:
            os.write(2, f"{self._stopping}\n".encode())

    def _line(self, trial: Trial, event: Event) -> Text:
        style = Status.of(event.status).colour
        line = Text(f"[{self.done}/{self.total}] ", style="dim", no_wrap=True)
        line.append(event.status, style=f"bold {style}")
        line.append(f" {trial}", style="")
        line.append(f"  {event.summary}", style=style)
        line.append(f"  {format_duration(event.seconds)}", style="dim")
        return line

    def _speaks(self, *, always: bool) -> bool:
        """Whether a line is due; one that is not is counted."""
        due = always or time.monotonic() - self._spoke >= 1 / LINES_A_SECOND
        self._silent += not due
        return due

    def _speak(self, line: Text) -> None:
        if self._silent:
            line = Text.assemble(line, (f"  (and {self._silent} before it)", "dim"))
        self._spoke, self._silent = time.monotonic(), 0
        self._say(line)

    def _say(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True, highlight=False)

    def _render(self) -> Group:
        self._bar.update(self._task, completed=self.done, pace=self.pace())
        if time.monotonic() - self._looked >= _LOOK:
            self._in_step, self._looked = self._steps(), time.monotonic()
        rows = Table.grid(padding=(0, 2))
        for trial, since in list(self._running.values())[:8]:
            clock = Text(format_duration(time.monotonic() - since), style="cyan")
            step = Text(self._in_step.get(trial.id, ""), style="dim")
            name = Text(str(trial), overflow="ellipsis", no_wrap=True)
            rows.add_row(clock, step, name)
        counts = Text("  ").join(
            Text(f"{n} {status}", style=Status.of(status).colour)
            for status, n in sorted(Counter(self._ended.values()).items())
        )
        lines = [*self._last, *self._failures, *self._leaders()]
        if self._stopping:
            lines.append(Text(self._stopping, style="bold yellow"))
        return Group(self._bar.get_renderable(), counts, rows, *lines)
