"""Why a post was tagged wrong: the groups of section 4.4, by rules that can be measured.

The paper grouped its errors by eye. Here each rule compares what the tagger says of a post with what it says
after one thing was taken away, so that the same errors always land in the same groups.
"""

from dataclasses import dataclass
from enum import StrEnum


class Group(StrEnum):
    """What is to blame for an error, in the order of the page."""

    UNRELATED = "image unrelated"
    POOR = "image poor"
    ASTRAY = "attention astray"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureReport:
    """What can be said of a picture by itself: its shorter side in pixels, and `model.pictures.sharpness`."""

    shorter_side: int
    sharpness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the rules look at.

    Errors are names missed plus names wrong. Those `without_picture` are of the caption alone, those `levelled` of
    all regions alike, each the mean of the 49; None where no picture was looked at. `names_picture`: the post
    names one, a folder of pictures was given, and the variant looks at them; `picture` is None where it is
    missing or broken.
    """

    num_errors: int
    num_errors_without_picture: int | None = None
    num_errors_levelled: int | None = None
    names_picture: bool = False
    picture: PictureReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRules:
    """Where a picture begins to be poor.

    Of 29 photographs from tweets one, a view in mist, is below the sharpness; the others have 90 to 4,000.
    """

    min_shorter_side: int = 100
    min_sharpness: float = 50.0

    def group_of(self, evidence: Evidence) -> Group:
        """The first group whose rule holds: poor, then unrelated and astray (whichever mends more), then text."""
        if not evidence.names_picture:
            return Group.TEXT
        if self._is_poor(evidence.picture):
            return Group.POOR
        without, levelled = evidence.num_errors_without_picture, evidence.num_errors_levelled
        if without is not None and without < evidence.num_errors and (levelled is None or without <= levelled):
            return Group.UNRELATED
        if levelled is not None and levelled < evidence.num_errors:
            return Group.ASTRAY
        return Group.TEXT

    def explain(self, group: Group) -> str:
        """The rule of a group in words, with the numbers in force."""
        return {
            Group.UNRELATED: "The picture is good enough, and the prediction gets better when it is taken away "
            "(and no less so than with all regions alike): what it shows misled the tagger.",
            Group.POOR: "The post names a picture that is missing or can't be read, that stands under several ids in "
            f"the place of lost ones, whose shorter side is under {self.min_shorter_side} pixels, or that is blurred "
            "or all but empty: the variance of its Laplacian, in grey at 224×224 pixels, is under "
            f"{self.min_sharpness:g}.",
            Group.ASTRAY: "The picture is good enough, and the prediction gets better when all its regions count "
            "alike, more so than without the picture: the picture helps, but not where the tagger looked.",
            Group.TEXT: "None of these: the post names no picture, the tagger was given none to look at, or taking the "
            "picture or the attention away mends nothing. The words are to blame.",
        }[group]

    def _is_poor(self, picture: PictureReport | None) -> bool:
        return picture is None or picture.shorter_side < self.min_shorter_side or picture.sharpness < self.min_sharpness
