"""Finding the row that kills workers.

Where a worker died with a chunk in hand, the chunk is worked on in parts the next time, each noted before it begins; a
death then accuses one part, and the next time that part is divided. Few deaths single out one row among thousands. A
worker may also die for another reason: a single row is guilty only if it was in hand at two deaths.
"""

from pydantic import BaseModel, ConfigDict

_PARTS = 32
_GUILTY = 2


class Suspicion(BaseModel):
    """What is known of the deaths of workers with one chunk in hand.

    Attributes:
        deaths: how many there were.
        low, high: rows [low, high) of the chunk that the last one is blamed on; `high` None: to the end.
        strikes: deaths with exactly these rows in hand.
        guilty: rows that are not tried again.
    """

    model_config = ConfigDict(frozen=True)

    deaths: int = 0
    low: int = 0
    high: int | None = None
    strikes: int = 0
    guilty: tuple[int, ...] = ()

    def after_death(self, marked: range | None) -> "Suspicion":
        """What is known after one more death with these rows marked; None: the chunk as a whole.

        Where no rows are marked, the chunk was waiting for its turn and had no part in it.
        """
        if marked is not None and not marked:
            return self
        deaths = self.deaths + 1
        if marked is None:
            return self.model_copy(update={"deaths": deaths})
        again = (self.low, self.high) == (marked.start, marked.stop)
        strikes = self.strikes + 1 if again else 1
        if len(marked) == 1 and strikes >= _GUILTY:
            return Suspicion(deaths=deaths, guilty=(*self.guilty, marked.start))
        return Suspicion(deaths=deaths, low=marked.start, high=marked.stop, strikes=strikes, guilty=self.guilty)

    def parts(self, count: int) -> list[range]:
        """The rows of a chunk of `count` in the parts to try one by one, without the guilty ones."""
        high = min(count, self.high if self.high is not None else count)
        size = max(1, -(-(high - self.low) // _PARTS))
        suspected = [range(start, min(start + size, high)) for start in range(self.low, high, size)]
        cut = [range(0, self.low), *suspected, range(high, count)]
        return [part for whole in cut for part in self._innocent(whole)]

    def _innocent(self, part: range) -> list[range]:
        starts = [part.start, *(row + 1 for row in sorted(self.guilty) if row in part)]
        stops = [*(row for row in sorted(self.guilty) if row in part), part.stop]
        return [range(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]
