"""Messages of errors are short, and an error of full memory is known."""

import jax
import pytest

from amdjax.errors import (
    exception_chain,
    first_line,
    first_names,
    is_out_of_memory,
    one_line,
    unknown_name,
)


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


def test_unknown_name_accepts_a_value_that_is_not_a_text():
    error = unknown_name("AM term", 1, ("angular", "positive"))
    assert str(error) == "unknown AM term 1; known: angular, positive"


@pytest.mark.parametrize(
    ("names", "text"),
    [((), ""), (("a", "b", "c"), "a, b, c"), (("a", "b", "c", "d", "e"), "a, b, c and 2 more")],
)
def test_first_names_counts_the_others(names, text):
    assert first_names(names) == text


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (MemoryError("Unable to allocate 3.00 GiB"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: a fault"), False),
        (ValueError("RESOURCE_EXHAUSTED: too many requests"), False),
    ],
)
def test_is_out_of_memory_knows_the_errors_of_jax_and_python(error, is_full):
    assert is_out_of_memory(error) is is_full


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
    assert [type(error) for error in exception_chain(caught.value)] == [
        ValueError,
        KeyError,
        OSError,
    ]
    assert list(exception_chain(None)) == []
