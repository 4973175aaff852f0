"""Caption clean-up as FNE's published data code does it (methods: "Caption clean-up")."""

import re

_DROPPED = str.maketrans("", "", ",.'!?\"()*#:;~")
_SPACE = re.compile(r"\s+")


def clean_caption(caption: str, words: int) -> str:
    """Lower case, no punctuation, `-` and `/` as spaces, `<person>` as `person`, single spaces, first `words` words."""
    text = caption.lower().translate(_DROPPED).replace("-", " ").replace("/", " ").replace("<person>", "person")
    return " ".join(_SPACE.sub(" ", text).strip().split(" ")[:words])
