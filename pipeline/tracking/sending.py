"""Journals sent to the store that they are for: at a stage's end, before the next one's record, or by a person."""

from __future__ import annotations

import os

from pipeline.errors import InputError
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.entries import files_of, merged
from pipeline.tracking.journal import Journal, records_before
from pipeline.tracking.patience import Patience
from pipeline.tracking.store import LONGER_PATIENCE, NAMED, address, reason, store_uri, without_password

SYNC = "python -m stages.sync"


def send(journal: Journal, patience: Patience | None = None) -> str:
    """Send what a journal holds, and forget it once its run is finished there; sending twice changes nothing.

    Returns:
        What became of it, in words: "sent", "nothing to send", "its stage is running: left alone", or "sent so far …".

    Raises:
        Exception: whatever the store throws; InputError when the journal cannot be read or is for another store.
    """
    if not journal.path.exists():
        return "nothing to send"
    if not journal.hold(wait=False):
        return "its stage is running: left alone"
    try:
        finished = replay(journal, patience)
        if finished or journal.stage == "train":  # a training that is started again finds its run without it
            journal.remove()
        return "sent" if finished else "sent so far; its stage was killed: run the same command again"
    finally:
        journal.release()


def send_patiently(journal: Journal) -> str:
    """As `send`, for a person who waits.

    Raises:
        InputError: when the store does not take it; what was sent stays sent, and the journal stays.
    """
    os.environ.update(LONGER_PATIENCE)
    try:
        return send(journal)
    except InputError:
        raise
    except Exception as error:  # whatever a store throws
        uri = store_of(journal)
        raise InputError(
            f"{journal.path}: MLflow at {without_password(uri)} did not take it ({reason(error, uri)}); "
            "nothing is lost, try again"
        ) from error


def replay(journal: Journal, patience: Patience | None = None) -> bool:
    """Do all entries to the run, those of earlier stages first; whether it ended.

    Raises:
        Exception: whatever the store throws; InputError when the journal cannot be read or is for another store.
    """
    entries = journal.entries()
    if not entries:
        return True
    uri = store_of(journal)
    for path in (path for entry in entries for path in files_of(entry)):
        if not (journal.files / path).exists():
            raise InputError(
                f"{journal.path}: {journal.files / path} is missing; delete the journal to give its record up"
            )
    for earlier in records_before(entries[0]):
        send(earlier, patience)
    delivery = Delivery(entries[0]["experiment"], uri, live=False, patience=patience)
    for entry in merged(entries):
        delivery.do(entry, journal.files)
    if entries[-1]["do"] != "finish":
        delivery.mark_killed()
        return False
    return True


def store_of(journal: Journal) -> str:
    """Where the store is that a journal is for.

    Raises:
        InputError: when the environment names another one.
    """
    entries = journal.entries()
    named = entries[0]["store"] if entries else None
    uri = address(named)
    if uri is None:
        own = named or "the main repository's mlflow.db"
        raise InputError(
            f"{journal.path}: this record is for {own}, and {NAMED} names {without_password(store_uri())}; "
            + ("set it to the former or unset it" if named else "unset it")
        )
    return uri
