"""A full disk, told apart from faults of the program."""

from __future__ import annotations

import errno

_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = ("No space left on device", "Disk quota exceeded", "disk is full")  # other libraries'


def no_room(error: BaseException) -> str | None:
    """What says that a disk or a quota is full; None: this error has another cause."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _CODES:
            where = f" at {link.filename}" if link.filename else ""
            return f"no room left on the disk{where} ({link.strerror})"
        for words in _WORDS:
            if words in str(link):
                return f"no room left on the disk ({words})"
        link = link.__cause__ or link.__context__
    return None
