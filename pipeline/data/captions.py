"""Caption clean-up as FNE's published data code does it (methods: "Caption clean-up")."""

import re

_DROPPED = str.maketrans("", "", ",.'!?\"()*#:;~")
_SPACE = re.compile(r"\s+")


def clean_caption(caption: str, words: int | None = None) -> str:
    """Lower case, no punctuation, `-` and `/` as spaces, `<person>` as `person`, single spaces, first `words` words.

    `words` None: all of them.
    """
    text = caption.lower().translate(_DROPPED).replace("-", " ").replace("/", " ").replace("<person>", "person")
    return " ".join(_SPACE.sub(" ", text).strip().split(" ")[:words])


def one_line(caption: str) -> str:
    """The caption with each line break as a space, which formats with a caption a line need."""
    return re.sub(r"\s*[\r\n]+\s*", " ", caption)


def can_be_written(text: str) -> bool:
    r"""Whether a text can be encoded: JSON can hold half a character (`\ud800`), which UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
