"""What a worker costs, as `tests/benchmarks/capacity.py` measured it on the machine named in measured.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MEASURED = Path(__file__).with_name("measured.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of one core. A batch takes the tagger's process `batch` + posts × `post` + new pictures × `tower`.

    `loop` is what the worker's own process takes a post on a core beside, where pictures are known: reading, JSON,
    cache, publishing. `decode` is a process of its own, too.
    """

    batch: float
    post: float
    loop: float
    tower: float
    decode: float
    publish: float
    features_bytes: float = 25_800.0
    """Of a picture's features in the cache."""

    @classmethod
    def measured(cls, path: Path = MEASURED) -> Self:
        """Those of the last kept run of the benchmark."""
        figures = json.loads(path.read_text())["figures"]
        return cls(
            batch=figures["tag_batch_seconds"],
            post=figures["tag_post_seconds"],
            loop=figures["known_loop_post_seconds"],
            tower=figures["tower_picture_seconds"],
            decode=figures["decode_picture_seconds"],
            publish=figures["captions_publish_seconds"],
            features_bytes=figures["features_bytes"],
        )

    def post_seconds(self, pictures: float, batch_posts: float = 32.0) -> float:
        """For a post in a full batch, with so many new `pictures` a post: of the process that takes longer."""
        return max(self.loop, self.batch / batch_posts + self.post + pictures * self.tower)

    def work_seconds(self, pictures: float, batch_posts: float = 32.0) -> float:
        """Of all cores for a post in a full batch, with so many new `pictures` a post."""
        tagger = self.batch / batch_posts + self.post + pictures * self.tower
        return self.loop + tagger + pictures * self.decode

    def stretched(self, factor: float) -> "Costs":
        """The same on a machine that is so much slower."""
        return Costs(
            batch=self.batch * factor,
            post=self.post * factor,
            loop=self.loop * factor,
            tower=self.tower * factor,
            decode=self.decode * factor,
            publish=self.publish,
        )
