"""Progress where no terminal draws bars."""

from __future__ import annotations

from mixture.progress import Lines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _run(steps: int, seconds: float, first: int = 0, unit: str = "steps") -> list[tuple[float, str]]:
    """What is written, and when, of a job of so many steps that takes so many seconds a step."""
    clock, written = Clock(), []
    lines = Lines("training", lambda line: written.append((clock.now, line)), unit=unit, clock=clock)
    for step in range(first + 1, steps + 1):
        clock.now += seconds
        lines(step, steps, f"loss {1 / step:.2f}")
    return written


def test_a_line_at_each_tenth_and_every_30_seconds() -> None:
    tenths = _run(1000, 0.1)
    assert [line.split()[1] for _, line in tenths] == [f"{n:,}/1,000" for n in range(100, 1001, 100)]
    assert tenths[4][1] == "training: 500/1,000 steps (50 %), loss 0.00, 10 steps/s, 50 s left"
    assert tenths[-1][1].endswith(", 10 steps/s, 1 min 40 s in all")
    slow = [at for at, _ in _run(100, 20.0)]
    assert max(b - a for a, b in zip([0.0, *slow], slow, strict=False)) <= 40.0  # a step after 30 s
    assert len(slow) >= 2000 / 40


def test_what_is_done_at_once_says_nothing() -> None:
    assert _run(1000, 0.001) == []


def test_what_counts_no_unit_says_no_rate() -> None:
    written = [line for _, line in _run(10, 3.0, unit="")]
    assert written[0] == "training: 2/10 (20 %), loss 0.50, 24 s left"
    assert not any("/s" in line for line in written)


def test_a_resumed_job_counts_its_rate_from_where_it_began() -> None:
    first = _run(1000, 0.1, first=500)[0][1]
    assert first == "training: 600/1,000 steps (60 %), loss 0.00, 10 steps/s, 40 s left"


def test_a_stage_that_had_nothing_to_count_ends_without_a_word() -> None:
    clock, written = Clock(), []
    starting = Lines("starting", written.append, clock=clock)
    starting(0, 0, "loading")
    clock.now += 10
    starting(1, 1, "done")
    assert written == ["starting: loading"]


def test_what_is_loaded_is_said_at_once_and_one_file_by_what_is_read() -> None:
    clock, written = Clock(), []
    lines = Lines("ingest", written.append, clock=clock)
    lines(0, 0, "loading")
    for rows in range(1, 7):
        clock.now += 10
        lines(0, 1, f"a.jsonl  {rows} rows")
    assert written == [
        "ingest: loading",
        "ingest: a.jsonl  3 rows, 30 s so far",
        "ingest: a.jsonl  6 rows, 1 min 0 s so far",
    ]
