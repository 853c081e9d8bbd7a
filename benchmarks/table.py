"""The rows of the speed table, from what was measured to figures, to JSON and to Markdown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.summaries import Latency, Spread, markdown

COLUMNS = ("way", "layers", "pairs/s", "min–max", "tok/s", "of the ceiling", "peak MiB", "p50/p95/p99 ms", "ratio")


@dataclass
class Measured:
    """One row as it was measured.

    Attributes:
        way: its name.
        layers: how many of the annotator's layers it executes.
        work: FLOPs that it needs for all pairs.
        seconds: of every round.
        latencies: seconds of every request, where there were single ones.
        refused: how often such a request was asked to come back later.
        peak_mib: of the process that does the work.
        note: for a row without seconds, why it has none.
    """

    way: str
    layers: int
    work: int
    seconds: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    peak_mib: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Row:
    """The same as figures; None where it could not be measured."""

    way: str
    layers: int
    pairs_per_second: Spread | None
    tokens_per_second: float | None
    ceiling_share: float | None
    peak_mib: float | None
    latency_ms: Latency | None
    ratio: float | None
    refused: int
    note: str | None


def rows_of(measured: Sequence[Measured], pairs: int, tokens: int, ceiling: float) -> list[Row]:
    """Figures of every row; the share is of `ceiling` in FLOP/s.

    Ratios are to the first row, round by round, and of these the median: what slows a round down slows both.
    """
    return [_row(one, pairs, tokens, ceiling, measured[0].seconds) for one in measured]


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Rows of a JSON file."""
    return [asdict(row) for row in rows]


def as_cells(row: Row) -> list[str]:
    """A row of `COLUMNS`."""
    if row.pairs_per_second is None or row.tokens_per_second is None:
        return [row.way, str(row.layers), row.note or "–", *["–"] * (len(COLUMNS) - 3)]
    speed, latency = row.pairs_per_second, row.latency_ms
    return [
        row.way,
        str(row.layers),
        f"{speed.median:.2f}",
        f"{speed.lowest:.2f}–{speed.highest:.2f}",
        f"{row.tokens_per_second:,.0f}",
        "–" if row.ceiling_share is None else f"{row.ceiling_share:.0%}",
        "–" if row.peak_mib is None else f"{row.peak_mib:,.0f}",
        f"{latency.p50:,.0f} / {latency.p95:,.0f} / {latency.p99:,.0f}" if latency else "–",
        "–" if row.ratio is None else f"{row.ratio:.1f}×",
    ]


def as_markdown(rows: Sequence[Row]) -> str:
    """The table, and below it whose requests were refused for a while."""
    refused = "".join(f"\n{row.way}: {row.refused} requests were asked to come later.\n" for row in rows if row.refused)
    return markdown(COLUMNS, [as_cells(row) for row in rows]) + refused


def _row(one: Measured, pairs: int, tokens: int, ceiling: float, base: Sequence[float]) -> Row:
    if not one.seconds:
        return Row(one.way, one.layers, None, None, None, None, None, None, 0, one.note)
    median = Spread.of(one.seconds).median
    return Row(
        way=one.way,
        layers=one.layers,
        pairs_per_second=Spread.of([pairs / seconds for seconds in one.seconds]),
        tokens_per_second=tokens / median,
        ceiling_share=one.work / median / ceiling,
        peak_mib=one.peak_mib,
        latency_ms=Latency.of(one.latencies) if one.latencies else None,
        ratio=Spread.of([theirs / ours for theirs, ours in zip(base, one.seconds, strict=True)]).median,
        refused=one.refused,
        note=one.note,
    )
