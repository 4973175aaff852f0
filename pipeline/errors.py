"""The error that users of the pipeline read, and text from outside made safe to print."""


class InputError(Exception):
    """Wrong user input: the message names the file, key or row, the value found and the allowed values.

    Stages print it as one line and exit with status 1; any other exception is a bug of the pipeline and keeps its
    traceback.
    """


def needs_extra(name: str) -> str:
    """The end of a message about a package that only an extra of pyproject.toml installs."""
    return f"it needs the extra `{name}`: pip install --no-build-isolation -c constraints.txt '.[{name}]'"


def printable(text: str) -> str:
    """A text with terminal control characters escaped as in Python, so that it cannot change the terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
