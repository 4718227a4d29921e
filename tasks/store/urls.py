"""Addresses of stores and servers, and what libraries say about them, without what is secret."""

from __future__ import annotations

import os
import re
import urllib.parse

_LOCAL = ("sqlite:", "file:")
# Variables of the environment that are credentials by their names, or hold some among other words
_SECRET = re.compile(".*(PASSWORD|PASSWD|SECRET|TOKEN)")
_SOME = re.compile("KEY|CREDENTIAL|CONNECTION_STRING|^FSSPEC_")
# Shorter words would be replaced in the middle of other words of a message
_WORD = re.compile(r"[^\s\"'{},;=]{8,}")
LONGEST = 300  # characters of a message


def shown(url: str) -> str:
    """Return an address without user, password and query."""
    # A password may hold a question mark, and a query an @: what is before the last @ goes first
    bare = url if url.startswith(_LOCAL) else re.sub("//.*@", "//", url)
    return re.split("[?&]", bare)[0]


def reason(error: BaseException, url: str) -> str:
    """Return the innermost cause of an error about `url`, in one line without the secrets of the
    address and of the environment.
    """
    # Libraries wrap the error that tells something, such as a refused connection
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = (str(error).strip() or type(error).__name__).splitlines()[0].replace(url, shown(url))
    user = "" if url.startswith(_LOCAL) else re.findall("//(.*)@|$", url)[0]
    password = user.partition(":")[2] or user
    # A library may take a part of a password for a port or a host, and name that part alone
    parts = sorted(re.split("[:/?#@]", password), key=len, reverse=True)
    for word in filter(None, (user, password, *_of_environment(), *parts)):
        for secret in (word, urllib.parse.unquote(word)):
            text = text.replace(secret, "***")
    return text[:LONGEST]


def _of_environment() -> list[str]:
    """Return what the environment holds as credentials, the longest first."""
    found = []
    for name, value in os.environ.items():
        if _SECRET.fullmatch(name.upper()):
            found.append(value)
        elif _SOME.search(name.upper()):
            found += _WORD.findall(value)
    return sorted(found, key=len, reverse=True)
