"""What is said of others' exceptions fits in a sentence."""

from orchard.errors import first_line


def test_of_an_exception_from_java_the_cause_is_told_and_not_the_stack() -> None:
    java = Exception(
        "An error occurred while calling o1.save.\n: java.net.UnknownHostException: photos\n\tat java.base"
    )
    assert first_line(java) == "java.net.UnknownHostException: photos"
    assert first_line(ValueError("no\nand no")) == "no"
    assert first_line(ValueError()) == "ValueError"
