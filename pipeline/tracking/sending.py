"""Journals sent to the store that they are for: at a stage's end, before the next one's record, or by a person."""

from __future__ import annotations

import os
from collections.abc import Callable

from pipeline.errors import InputError
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.entries import Entry, files_of, merged
from pipeline.tracking.journal import Journal, records_before
from pipeline.tracking.patience import Patience
from pipeline.tracking.store import LONGER_PATIENCE, NAMED, address, reason, store_uri, without_password

SYNC = "python -m commands.sync"
LEFT_ALONE = "its stage is running: left alone"


class HeldError(Exception):
    """Another process writes or sends a record that the store is to have first."""


def send(journal: Journal, patience: Patience | None = None) -> str:
    """Send what a journal holds, and forget it once its run is finished there; sending twice changes nothing.

    Returns:
        What became of it, in words: "sent", "nothing to send", "its stage is running: left alone", or "sent so far …".

    Raises:
        HeldError: when another process has a record that must come before; nothing of this one is sent.
        Exception: whatever the store throws; InputError when the journal cannot be read or is for another store.
    """
    if not journal.path.exists():
        return "nothing to send"
    if not journal.hold():
        return LEFT_ALONE
    try:
        finished = replay(journal, patience)
        if finished or journal.stage == "train":  # a training that is started again finds its run without it
            journal.remove()
        return "sent" if finished else "sent so far; its stage was killed: run the same command again"
    finally:
        journal.release()


def send_before(
    journal: Journal, first: Entry, begun: Callable[[Entry], bool], patience: Patience | None = None
) -> None:
    """Send what the store is to have before a record, whoever else sends it, or a run would be made a second time.

    Args:
        journal: the record's own; earlier tellings of the same come first.
        first: what it begins with.
        begun: whether the store has the run of a journal with such a first entry: then nobody makes another.
        patience: how long another process is waited for; None: not at all.

    Raises:
        HeldError: when that process is not done by then.
        Exception: as `send`.
    """
    for earlier in [*journal.earlier(), *records_before(first)]:
        if send(earlier, patience) != LEFT_ALONE:
            continue
        if earlier.stage != journal.stage and any(begun(entry) for entry in earlier.entries()[:1]):
            continue
        if patience is None or not patience.take(earlier.hold):
            raise HeldError(f"{earlier.path.name} is held by another process")
        try:
            send(earlier, patience)
        finally:
            earlier.release()


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
    except HeldError as error:
        return f"{error}, and comes before: left alone"
    except Exception as error:  # whatever a store throws
        uri = store_of(journal)
        raise InputError(
            f"{journal.path}: MLflow at {without_password(uri)} did not take it ({reason(error, uri)}); "
            "nothing is lost, try again"
        ) from error


def replay(journal: Journal, patience: Patience | None = None) -> bool:
    """Do all entries to the run, those of earlier stages first; whether it ended.

    Raises:
        Exception: whatever the store throws; InputError when the journal cannot be read or is for another store;
            HeldError as `send_before`.
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
    delivery = Delivery(entries[0]["experiment"], uri, live=False, patience=patience)
    send_before(journal, entries[0], delivery.has_begun, patience)
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
