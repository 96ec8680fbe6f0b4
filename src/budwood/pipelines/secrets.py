"""Secrets that stay out of what is logged: values by their names, and passwords in addresses."""

import re
import shlex
from collections.abc import Mapping, Sequence

MASK = "***"

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_ANYWHERE = ("password", "passwd", "secret", "credential")
_AT_THE_END = ("token", "key")
_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
# `name=value` or `name:value`, as in `--params=group.name=value,other=value`.
_ASSIGNED = re.compile(r"([\w.-]+)([=:])([^,\s]+)")


def is_secret(name: str) -> bool:
    """Return whether a part of a dotted name says password, secret or credential, or ends in token or key."""
    parts = [[word.lower() for word in _WORDS.findall(part)] for part in name.split(".")]
    return any(
        any(secret in word for word in words for secret in _ANYWHERE) or words[-1].endswith(_AT_THE_END)
        for words in parts
        if words
    )


def without_secrets(values: Mapping[str, object]) -> dict[str, object]:
    """Return named values with secrets masked."""
    return {name: MASK if is_secret(name) and value is not None else _clean(value) for name, value in values.items()}


def clean_command(arguments: Sequence[str]) -> str:
    """Return a command line with secrets masked."""
    shown, hidden = [], False
    for argument in arguments:
        name = argument.lstrip("-")
        shown.append(MASK if hidden else clean_text(argument))
        hidden = argument.startswith("-") and "=" not in argument and is_secret(name)
    return " ".join(map(_quoted, shown))


def clean_text(text: str) -> str:
    """Return text with the values of secret names, and passwords of addresses, masked."""
    text = _PASSWORD.sub(rf"\1:{MASK}@", text)
    # An option takes assignments: `--params=name=value`.
    option, separator, rest = text.partition("=") if text.startswith("-") else ("", "", text)
    if separator and is_secret(option.lstrip("-")):
        return f"{option}={MASK}"
    return option + separator + _ASSIGNED.sub(_masked, rest)


def _masked(found: re.Match[str]) -> str:
    name, sign, _ = found.groups()
    return f"{name}{sign}{MASK}" if is_secret(name) else found.group()


def _clean(value: object) -> object:
    return _PASSWORD.sub(rf"\1:{MASK}@", value) if isinstance(value, str) else value


def _quoted(argument: str) -> str:
    return argument if MASK in argument else shlex.quote(argument)
