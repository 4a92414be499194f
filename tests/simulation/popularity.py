"""Which pictures a stream shows, and which of them the cache knows: Zipf's law over a catalogue that is renewed."""

from dataclasses import dataclass

import numpy as np

DAY = 24 * 3600.0
NUM_CLASSES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Popularity:
    """Of the posts, `picture_share` show a picture; of those, `fresh_share` one that nobody has shown before.

    Both are counted in the real minute of ../shared/data/archive: 891 of 2,830 posts show a picture, 209 of them are no
    retweet. The others are drawn by Zipf's law. Its exponent is assumed; the size of the catalogue, which grows with
    the stream, is such that as many pictures come twice as in that minute (25), which is a hundredth of its stream.
    Of the catalogue the cache keeps the most popular `kept_per_rate` for each post a second, as Redis does whose memory
    is full (allkeys-lfu), at its best.
    """

    picture_share: float = 0.315
    fresh_share: float = 0.235
    exponent: float = 0.8
    pictures_per_rate: float = 4500.0
    kept_per_rate: float = 1600.0
    ttl_seconds: float = DAY


class PictureCache:
    """How likely each picture's features are in the cache, by classes of like popularity."""

    def __init__(self, popularity: Popularity, rate: float) -> None:
        self._popularity = popularity
        size = max(100.0, popularity.pictures_per_rate * rate)
        edges = np.unique(np.round(np.geomspace(1, size + 1, NUM_CLASSES + 1)))
        middle = np.sqrt(edges[:-1] * edges[1:])
        self._numbers = np.diff(edges)
        weights = self._numbers * middle**-popularity.exponent
        self._shares = weights / weights.sum()
        self._each = self._shares / self._numbers
        self._is_kept = np.cumsum(self._numbers) <= popularity.kept_per_rate * rate
        # A stream that has run for long.
        requests = self._each * rate * popularity.picture_share * (1 - popularity.fresh_share)
        self._known = self._is_kept * requests / (requests + 1 / popularity.ttl_seconds)

    @property
    def hit_ratio(self) -> float:
        """Of the pictures in posts, the share whose features are known."""
        return (1 - self._popularity.fresh_share) * float(self._shares @ self._known)

    @property
    def num_pictures(self) -> float:
        """Pictures that are known."""
        return float(self._numbers @ self._known)

    def clear(self) -> None:
        """Forget all, as an empty Redis does."""
        self._known[:] = 0.0

    def show(self, num_pictures: float, seconds: float) -> None:
        """`num_pictures` are shown, and kept, in `seconds`; what is older than its time to live lapses."""
        shown = num_pictures * (1 - self._popularity.fresh_share) * self._each
        self._known += self._is_kept * (1 - self._known) * -np.expm1(-shown)
        self._known *= np.exp(-seconds / self._popularity.ttl_seconds)
