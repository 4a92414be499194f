"""The groups of section 4.4: the same evidence, the same group, by the rules that the page tells."""

import pytest

from model.error_groups import Evidence, Group, GroupRules, PictureReport

GOOD = PictureReport(shorter_side=600, sharpness=800)


@pytest.mark.parametrize(
    ("with_picture", "without", "levelled", "group"),
    [
        (2, 0, 2, Group.UNRELATED),
        (2, 0, 1, Group.UNRELATED),
        (2, 1, 1, Group.UNRELATED),
        (2, 1, 0, Group.ASTRAY),
        (2, 2, 1, Group.ASTRAY),
        (2, 3, 1, Group.ASTRAY),
        (2, 2, 2, Group.TEXT),
        (1, 3, 4, Group.TEXT),
    ],
)
def test_what_mends_most_decides(with_picture: int, without: int, levelled: int, group: Group) -> None:
    """A good picture: unrelated where its absence mends most, astray where an even attention does, else text."""
    evidence = Evidence(
        num_errors=with_picture,
        num_errors_without_picture=without,
        num_errors_levelled=levelled,
        names_picture=True,
        picture=GOOD,
    )
    assert GroupRules().group_of(evidence) is group


@pytest.mark.parametrize(
    ("picture", "group"),
    [
        (None, Group.POOR),
        (PictureReport(shorter_side=99, sharpness=800), Group.POOR),
        (PictureReport(shorter_side=100, sharpness=800), Group.UNRELATED),
        (PictureReport(shorter_side=600, sharpness=49.9), Group.POOR),
        (PictureReport(shorter_side=600, sharpness=50), Group.UNRELATED),
    ],
)
def test_a_poor_picture_comes_first(picture: PictureReport | None, group: Group) -> None:
    """Missing, small or blurred is poor, whatever mends the error; at the thresholds it isn't."""
    evidence = Evidence(
        num_errors=2, num_errors_without_picture=0, num_errors_levelled=0, names_picture=True, picture=picture
    )
    assert GroupRules().group_of(evidence) is group


def test_a_post_without_a_picture_is_text() -> None:
    """Where no picture is named none is missing."""
    assert GroupRules().group_of(Evidence(num_errors=1)) is Group.TEXT


def test_the_rules_tell_their_numbers() -> None:
    """The explanation has the thresholds in force, not those of the default."""
    told = GroupRules(min_shorter_side=77, min_sharpness=12.5).explain(Group.POOR)
    assert "77 pixels" in told
    assert "12.5" in told
