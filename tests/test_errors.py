import pytest

from amdjax.errors import chain, first_line, one_line


@pytest.mark.parametrize(
    ("message", "line", "first"),
    [
        (ValueError(" two\n  lines "), "two lines", "two"),
        (ValueError("\n"), "ValueError", "ValueError"),
        (OSError(), "OSError", "OSError"),
        ("a\n\tb", "a b", "a"),
        ("", "", ""),
    ],
)
def test_messages_become_one_line(message, line, first):
    assert (one_line(message), first_line(message)) == (line, first)


def test_chain_prefers_the_cause_to_the_context():
    with pytest.raises(ValueError) as caught:
        try:
            try:
                raise OSError("first")
            except OSError:
                raise KeyError("second")  # noqa: B904 - the context is meant
        except KeyError as error:
            try:
                raise TypeError("ignored")
            except TypeError:
                raise ValueError("last") from error
    assert [type(error) for error in chain(caught.value)] == [ValueError, KeyError, OSError]
    assert list(chain(None)) == []
