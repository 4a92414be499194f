"""How many workers and partitions a rate needs: the five steps of deploy/SCALING.md as code."""

import math
from dataclasses import dataclass

from tests.simulation.costs import Costs
from tests.simulation.fleet import Fleet
from tests.simulation.popularity import PictureCache, Popularity


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What `rate` posts a second take; `warm` and `cold` are posts a second of one worker."""

    rate: float
    workers: int
    partitions: int
    warm: float
    cold: float
    new_pictures_per_post: float
    cached_pictures: float

    def fleet(self, costs: Costs, *, workers: int | None = None) -> Fleet:
        """The fleet of this size, or with other `workers`."""
        return Fleet(rate=self.rate, workers=workers or self.workers, partitions=self.partitions, costs=costs)


def size_for(
    rate: float, costs: Costs, *, zones: int = 3, busy: float = 0.7, popularity: Popularity | None = None
) -> Size:
    """Workers that are `busy` when one zone of `zones` is gone, and partitions that divide evenly then, too."""
    popularity = popularity or Popularity()
    cache = PictureCache(popularity, rate)
    new = popularity.picture_share * (1 - cache.hit_ratio)
    warm = 1 / costs.post_seconds(new)
    needed = rate / (busy * warm) * zones / (zones - 1)
    workers = zones * math.ceil(needed / zones)
    return Size(
        rate=rate,
        workers=workers,
        # Each has zones - 1 of them, and zones when one zone's are given to the others.
        partitions=(zones - 1) * workers,
        warm=warm,
        cold=1 / costs.post_seconds(popularity.picture_share),
        new_pictures_per_post=new,
        cached_pictures=cache.num_pictures,
    )
