"""Each text that advises something has a test that does what it says.

`advice_without_story.txt` lists the texts that have none. It only becomes shorter: a new text needs its story.
"""

from advice import NOT_REACHED, WITHOUT_STORY, all_advice, stories


def test_each_advice_has_a_story_or_is_listed() -> None:
    parts = list(stories())
    without = sorted(str(advice) for advice in all_advice() if not any(part in advice.text for part in parts))
    assert without == WITHOUT_STORY.read_text().splitlines()


def test_each_story_names_a_text_of_the_package() -> None:
    texts = [advice.text for advice in all_advice()]
    assert [part for part in stories() if not any(part in text for text in texts)] == []


def test_each_text_without_a_story_has_a_reason() -> None:
    listed = WITHOUT_STORY.read_text().splitlines()
    assert [text for text in listed if not any(part in text for part in NOT_REACHED)] == []
    assert [part for part in NOT_REACHED if not any(part in text for text in listed)] == []
