"""The one error that a user of the pipeline is meant to read, and what others wrote, made fit to be read."""


class InputError(Exception):
    """Something the user gave is wrong: the message names the file, key or row, what was found and what is allowed.

    Stages print it as one line and exit with status 1; any other exception is a defect of the pipeline
    and keeps its traceback.
    """


def printable(text: str) -> str:
    """A text without what moves a terminal's cursor or writes its clipboard: such characters as Python writes them."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
