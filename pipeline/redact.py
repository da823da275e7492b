"""The one place where secrets leave a text: camera URLs, FFmpeg's messages, request headers.

Three ways in: `redact_url` for what is known to be one whole address, `redact_about` for a text about an
address that is at hand, `redact` for any text. Where it is not clear what is a password, it goes: an address
that is shown too short is found again, a password that is shown is not taken back.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"

MIN_PIECE = 4
"""A piece of a password is looked for in other texts from so many characters on; less is in every text."""

# Up to the last @ of the word, because a password typed raw may hold @, /, quotes and brackets. Or, mistyped,
# without "//": a colon amid the word, then an @.
# Both begin where a word does, else a long text takes time that grows with the square of its length.
_USERINFO = re.compile(
    r"(?<![a-z0-9+./-])(?P<scheme>[a-z][a-z0-9+.-]*:/+)(?P<info>\S*)@"
    r"|(?<![^\s\"'<>()\[\]{},;=])(?P<user>[^\s@:\"'<>()\[\]{},;=]+):[^\s@]\S*@(?=[\w\[])",
    re.IGNORECASE,
)
# The same where the whole text is the address: spaces and line ends belong to it, and "//" may be missing.
_LOGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*:/+|)(?P<info>.*)@", re.IGNORECASE | re.DOTALL)
# What an @ may follow that is no login: an IP address with a port or a name with dots, then a path.
_HOST = re.compile(
    r"(?:(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]+\])(?::\d{1,5})?|[a-z0-9-]+(?:\.[a-z0-9-]+)+)/",
    re.IGNORECASE,
)
_KEY = (
    r"(?P<key>(?:[a-z0-9]{0,32}[_.-])?(?:(?:login)?pas|pass(?:word|wd|phrase|code)?|pwd|psw|pw|jwt|token|secret|auth"
    r"|credentials?|api_?key|key|sig|signature|session_?(?:id)?))="
)
# In a sentence the quote, bracket or full stop that follows an address is not the value's.
_PARAMETER = re.compile(_KEY + r"(?P<value>[^&\s]+?)(?=[\"'<>)\]:;,.]{0,8}(?:[&\s]|$))", re.IGNORECASE)
_URL_PARAMETER = re.compile(_KEY + r"(?P<value>[^&#]+)", re.IGNORECASE)
_HEADER = re.compile(r"(?P<head>(?:proxy-)?authorization\s*:\s*)[^\r\n]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return `text` with the passwords of URLs, secret query values and authorization headers as ***.

    The user name stays where a password follows it (it helps to find a wrong login); a user name alone may be
    a token and goes. A password that holds spaces is not found: see `redact_about`.
    """
    text = _USERINFO.sub(_hide_match, text)
    text = _PARAMETER.sub(lambda match: f"{match['key']}={HIDDEN}", text)
    return _HEADER.sub(lambda match: f"{match['head']}{HIDDEN}", text)


def redact_url(url: str) -> str:
    """Return a whole address without its password: all up to the last @ goes, whatever it holds.

    An address without a scheme (a path, a mistyped URL) hides it only where a colon tells of a login.
    """
    login = _LOGIN.match(url)
    if login is not None and (login["scheme"] or ":" in login["info"]):
        url = login["scheme"] + _hide_login(login["info"], sure=True) + url[login.end() :]
    return _URL_PARAMETER.sub(lambda match: f"{match['key']}={HIDDEN}", url)


def only_host(url: str) -> str:
    """Return of an address with a scheme only that and the host, for files that are handed on; a path as it
    is."""
    scheme, found, rest = url.partition("://")
    if not found:
        return url
    return f"{scheme}://{re.split(r'[/?#]', rest.rpartition('@')[2])[0]}/…"


def redact_about(text: str, url: str) -> str:
    """Return a `text` about the address `url`: as `redact`, and literally without the address's secrets.

    Also those that only a look at the whole address tells, and pieces of them: who parses an address whose
    password holds a / or @ takes a part of it for a path or host.
    """
    text = text.replace(url, redact_url(url))
    for secret in _secrets(url):
        text = text.replace(secret, HIDDEN)
    return redact(text)


def _secrets(url: str) -> list[str]:
    """Return what of an address must not be seen, as it stands there and decoded, the longest first."""
    found = [match["value"] for match in _URL_PARAMETER.finditer(url)]
    login = _LOGIN.match(url)
    if login is not None and _hide_login(login["info"], sure=True) != login.group()[len(login["scheme"]) :]:
        user, colon, password = login["info"].partition(":")
        found.append(password if colon else user)
    pieces = [piece for each in found for piece in (each, *re.split(r"[\s/?#@:&]+", each))]
    wanted = {form for piece in pieces for form in (piece, unquote(piece)) if len(form) >= MIN_PIECE}
    return sorted(wanted - {HIDDEN}, key=len, reverse=True)


def _hide_match(match: re.Match[str]) -> str:
    if match["user"] is not None:
        return f"{match['user']}:{HIDDEN}@"
    return match["scheme"] + _hide_login(match["info"], sure=False)


def _hide_login(info: str, *, sure: bool) -> str:
    """Return what stands before the @ of an address, with the @ and without its secret.

    `sure`: false where "host/cam@2" may stand as well, a path with an @ in it.
    """
    host = _HOST.match(info)
    rest = info[host.end() :] if host is not None else info
    if ":" not in rest and (host is not None or (not sure and "/" in info)):
        return f"{info}@"
    user, colon, _ = info.partition(":")
    return f"{user}:{HIDDEN}@" if colon else f"{HIDDEN}@"
