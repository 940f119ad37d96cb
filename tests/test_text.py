"""Text from files is one line without control characters when it reaches a message."""

import doctest

from vitrim import text
from vitrim.text import shown


def test_the_examples_are_right():
    assert doctest.testmod(text).failed == 0


def test_what_python_does_not_print_is_shown_all_the_same():
    assert "digits" in shown(10**5000)
    assert shown("a\udcff\u202eb") == "a\\udcff\\u202eb"
    assert len(shown("x" * 10**6)) == 200
