"""The one error that a user of the pipeline is meant to read."""


class InputError(Exception):
    """Something the user gave is wrong: the message names the file, key or row, what was found and what is allowed.

    Stages print it as one line and exit with status 1; any other exception is a defect of the pipeline
    and keeps its traceback.
    """
