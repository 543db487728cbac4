"""Who pays for a failure: the piece that raises, not the piece whose worker was lost."""

from __future__ import annotations

import pytest

from cluster.attempts import MAX_ATTEMPTS, MAX_LOSSES, Attempts
from colbert_core.errors import JobFailed


def test_a_piece_that_raises_is_tried_three_times():
    attempts = Attempts()
    cause = OSError("No space left on device")
    for number in range(2, MAX_ATTEMPTS + 1):
        assert f"attempt {number} of 3" in attempts.failed("u", "unit 3 (ids 'a' to 'b')", cause)
    with pytest.raises(JobFailed, match=r"unit 3 \(ids 'a' to 'b'\) failed 3 times.*No space") as e:
        attempts.failed("u", "unit 3 (ids 'a' to 'b')", cause)
    assert e.value.__cause__ is cause


def test_losses_are_free_until_they_follow_a_piece():
    attempts = Attempts()
    cause = RuntimeError("The actor died\nlong story")
    for _ in range(MAX_LOSSES - 1):
        line = attempts.lost("u", "unit 3", cause)
        assert "The actor died" in line
        assert "long story" not in line
    assert "attempt 2" in attempts.failed("u", "unit 3", cause)
    with pytest.raises(JobFailed, match=r"unit 3 lost its worker 5 times.*memory"):
        attempts.lost("u", "unit 3", cause)


def test_pieces_are_counted_apart():
    attempts = Attempts()
    for piece in range(10):
        attempts.failed(piece, piece, OSError())
        attempts.lost(piece, piece, OSError())
