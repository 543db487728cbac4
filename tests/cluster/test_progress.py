"""Rates and time left from an injected clock; plain lines; bars that do not fall over."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cluster.progress import BarProgress, Meter, PlainProgress, progress_for


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_meter():
    clock = Clock()
    meter = Meter("encode", 100, "passages", clock)
    assert (meter.rate, meter.left_s) == (0.0, None)
    clock.now += 10
    meter.advance(25, 5000)
    assert meter.rate == pytest.approx(2.5)
    assert meter.left_s == pytest.approx(30)
    assert meter.line() == ("encode: 25 of 100 passages (2.5 passages/s, 500 tokens/s, 30 s left)")


def test_what_an_earlier_attempt_did_is_no_speed():
    clock = Clock()
    meter = Meter("train", 300, "steps", clock, 200)
    assert (meter.rate, meter.line()) == (0.0, "train: 200 of 300 steps")
    clock.now += 10
    meter.advance(5, 0)
    assert meter.line() == "train: 205 of 300 steps (0.5 steps/s, 3 min 10 s left)"


def test_meter_without_total_has_no_time_left():
    clock = Clock()
    meter = Meter("read", None, "passages", clock)
    clock.now += 1
    meter.advance(5000, 0)
    assert meter.left_s is None
    assert meter.line() == "read: 5,000 passages (5,000 passages/s)"


def test_plain_lines_come_every_few_seconds_and_at_the_end():
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock)
    progress.start("encode", 10, "passages")
    for _ in range(10):
        clock.now += 1
        progress.advance(1)
    progress.note("worker 0 was lost")
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "encode: 5 of 10 passages (1.0 passages/s, 5.0 s left)",
        "encode: 10 of 10 passages (1.0 passages/s)",
        "note: worker 0 was lost",
        "encode: 10 of 10 passages (1.0 passages/s) in 10 s",
    ]


def test_a_long_stage_counts_minutes_and_hours():
    clock = Clock()
    meter = Meter("encode", 7300, "passages", clock)
    clock.now += 100
    meter.advance(100, 0)
    assert meter.figures() == "1.0 passages/s, 2 h 00 min left"


def test_bars_show_stages_notes_and_can_be_closed_at_any_time():
    stream = io.StringIO()
    progress = BarProgress(Console(file=stream, force_terminal=True, width=120))
    progress.start("read", None, "passages")
    progress.advance(3)
    progress.finish()
    progress.start("encode", 4, "passages")
    progress.start("encode", 4, "passages", 1)  # anew
    progress.advance(1, 100)
    progress.note("[a note]")
    progress.close()
    assert "read" in stream.getvalue()
    assert "note: [a note]" in stream.getvalue()


def test_a_stream_that_is_no_terminal_gets_lines():
    assert isinstance(progress_for(io.StringIO()), PlainProgress)
