"""Progress of a job, stage by stage: done of how many, how fast, how long still.

`progress_for(stream)` chooses: bars on a terminal, else a plain line every few seconds, which is
what a log file or a Ray job's output wants. Everything goes to stderr; stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

LINE_EVERY_S = 5.0
Clock = Callable[[], float]


class Progress(Protocol):
    """Where a job reports to. Stages follow one another; one is open at a time."""

    def start(self, stage: str, total: int | None, noun: str, done: int = 0) -> None:
        """Open a stage of `total` things (None: unknown), called `noun` in the plural, of which
        some may be `done` already, by an earlier attempt."""

    def advance(self, done: int, tokens: int = 0) -> None:
        """Count things done, and the tokens in them."""

    def note(self, message: str) -> None:
        """Say something that a person should see: a lost worker, a straggler."""

    def finish(self) -> None:
        """Close the stage."""

    def close(self) -> None:
        """End all output, also in the middle of a stage."""


class Meter:
    """Arithmetic of one stage: rate and time left, from an injected clock."""

    def __init__(
        self, stage: str, total: int | None, noun: str, clock: Clock, done: int = 0
    ) -> None:
        self.stage, self.total, self.noun = stage, total, noun
        self.done = self._before = done
        self.tokens = 0
        self._clock = clock
        self._began = clock()

    def advance(self, done: int, tokens: int) -> None:
        self.done += done
        self.tokens += tokens

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    @property
    def rate(self) -> float:
        """Things per second since the stage began; 0 where nothing was done since."""
        done = self.done - self._before
        return done / self.seconds if done and self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds still to go, or None where it cannot be known yet."""
        if self.total is None or not self.rate:
            return None
        return max(0.0, (self.total - self.done) / self.rate)

    def figures(self) -> str:
        """The rates and the time left, as text."""
        parts = []
        if self.rate:
            parts.append(f"{_short(self.rate)} {self.noun}/s")
            if self.tokens:
                parts.append(f"{_short(self.tokens / self.seconds)} tokens/s")
        if self.left_s is not None and self.done < (self.total or 0):
            parts.append(f"{_duration(self.left_s)} left")
        return ", ".join(parts)

    def line(self) -> str:
        """One plain line."""
        of = "" if self.total is None else f" of {self.total:,}"
        figures = self.figures()
        return f"{self.stage}: {self.done:,}{of} {self.noun}" + (f" ({figures})" if figures else "")


class SilentProgress:
    """Reports nothing; the default of the library."""

    def start(self, stage: str, total: int | None, noun: str, done: int = 0) -> None: ...
    def advance(self, done: int, tokens: int = 0) -> None: ...
    def note(self, message: str) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class PlainProgress:
    """A line every few seconds, and one at the end of each stage."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._meter: Meter | None = None
        self._next_line_at = 0.0

    def start(self, stage: str, total: int | None, noun: str, done: int = 0) -> None:
        self._meter = Meter(stage, total, noun, self._clock, done)
        self._next_line_at = self._clock() + LINE_EVERY_S

    def advance(self, done: int, tokens: int = 0) -> None:
        if self._meter is None:
            return
        self._meter.advance(done, tokens)
        if self._clock() >= self._next_line_at:
            self._next_line_at = self._clock() + LINE_EVERY_S
            self._say(self._meter.line())

    def note(self, message: str) -> None:
        self._say(f"note: {message}")

    def finish(self) -> None:
        if self._meter is not None:
            self._say(f"{self._meter.line()} in {_duration(self._meter.seconds)}")
            self._meter = None

    def close(self) -> None:
        self._meter = None

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class BarProgress:
    """One bar per stage; notes scroll by above."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._meter: Meter | None = None
        self._task: TaskID | None = None
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._bars.start()

    def start(self, stage: str, total: int | None, noun: str, done: int = 0) -> None:
        self._meter = Meter(stage, total, noun, self._clock, done)
        if self._task is not None:  # begun anew
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(stage, total=total, completed=done, figures=noun)

    def advance(self, done: int, tokens: int = 0) -> None:
        if self._meter is None or self._task is None:
            return
        self._meter.advance(done, tokens)
        figures = self._meter.figures() or self._meter.noun
        self._bars.update(self._task, completed=self._meter.done, figures=figures)

    def note(self, message: str) -> None:
        self._bars.console.print(f"note: {message}", markup=False, highlight=False)

    def finish(self) -> None:
        if self._meter is None or self._task is None:
            return
        meter = self._meter
        took = f"{_duration(meter.seconds)}" + (f", {meter.figures()}" if meter.rate else "")
        self._bars.update(self._task, total=meter.done, completed=meter.done, figures=took)
        self._meter = self._task = None

    def close(self) -> None:
        self._bars.stop()


@contextmanager
def fetching() -> Iterator[Callable[[int, int], None]]:
    """What shows the bytes of a fetched index; silent where nothing is fetched.

    Yields a function of (bytes there, bytes wanted), of one folder after another, that several
    threads may call.
    """
    progress: Progress | None = None
    shown = 0
    lock = Lock()

    def show(done: int, total: int) -> None:
        nonlocal progress, shown
        with lock:
            if progress is None:
                progress = progress_for()
            if shown == 0:
                progress.start("fetch", total, "bytes")
            progress.advance(done - shown)
            shown = done
            if done >= total:
                progress.finish()
                shown = 0

    try:
        yield show
    finally:
        if progress is not None:
            progress.close()


def progress_for(stream: TextIO | None = None) -> Progress:
    """Bars where a person watches, lines elsewhere; on standard error by default."""
    stream = stream or sys.stderr
    if stream.isatty():
        return BarProgress(Console(file=stream))
    return PlainProgress(stream)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
