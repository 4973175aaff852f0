"""What transformers prints by itself."""

from __future__ import annotations


def silence_transformers() -> None:
    """Switch off transformers' progress bar and its report about missing weights: the pooler is not needed."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
