"""The one place where secrets leave a text: camera URLs, FFmpeg's messages, request headers."""

from __future__ import annotations

import re

HIDDEN = "***"

# user:password@ after a scheme. Up to the last @ of the word, because a password typed raw may hold @ and /;
# "host:554/cam@2" is no secret: digits and a slash after the colon are a port.
_USERINFO = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?![^\s/@:]*(?::\d+)?/)(?P<info>[^\s\"'<>]*)@", re.IGNORECASE
)
_PARAMETER = re.compile(
    r"(?P<key>(?:[a-z0-9]*[_.-])?(?:pass(?:word|wd|phrase)?|pwd|psw|token|secret|auth|api_?key|key|sig|signature))"
    r"=(?P<value>[^&\s;\"'<>]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<head>(?:proxy-)?authorization\s*:\s*)[^\r\n]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return `text` with the passwords of URLs, secret query values and authorization headers as ***.

    The user name stays where a password follows it (it helps to find a wrong login); a user name alone may be
    a token and goes.
    """
    text = _USERINFO.sub(_hide_userinfo, text)
    text = _PARAMETER.sub(lambda match: f"{match['key']}={HIDDEN}", text)
    return _HEADER.sub(lambda match: f"{match['head']}{HIDDEN}", text)


def _hide_userinfo(match: re.Match[str]) -> str:
    user, colon, _ = match["info"].partition(":")
    return f"{match['scheme']}{user}:{HIDDEN}@" if colon else f"{match['scheme']}{HIDDEN}@"
