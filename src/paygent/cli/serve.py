"""`paygent serve`: the backend on one port and one database.

The port is bound first, so that one in use is reported before anything is created. SIGTERM and
Ctrl-C end the command with status 0 once the server has finished its requests.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from paygent.cli.database import opened_database, read_database_url, shown_option, unavailable
from paygent.cli.first_start import FirstKeys, NoKeys, instructions, make_first_keys
from paygent.cli.options import UsageError
from paygent.core.validation import InvalidValue
from paygent.server.run import bind, serve
from paygent.server.settings import ServerSettings
from paygent.store.port import StoreUnavailable

_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, to print an address that can be called


def run(
    database_url: str | None,
    host: str,
    port: int,
    workers: int,
    makes_keys: bool,
    environ: Mapping[str, str],
) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    settings = _settings(read_database_url(database_url, environ), host, port, workers)
    # Until the server has handlers of its own.
    signal.signal(signal.SIGTERM, _end)
    try:
        listener = bind(settings)
    except OSError as error:
        raise UsageError(_refusal(settings, error)) from error
    with listener:
        address = _url(settings.host, listener.getsockname()[1])
        _prepare(settings, address, makes_keys=makes_keys)
        try:
            serve(settings, listener=listener)
        except StoreUnavailable as error:  # since it was opened a moment ago
            raise unavailable(settings.database_url, error) from error
    return 0


def _settings(url: str, host: str, port: int, workers: int) -> ServerSettings:
    """Return the settings; errors name the options.

    Raises:
        InvalidValue: naming each option that breaks a rule.
    """
    try:
        return ServerSettings(database_url=url, host=host, port=port, workers=workers)
    except InvalidValue as error:
        options = (replace(each, field=f"--{each.field}") for each in error.findings)
        raise InvalidValue("paygent serve", tuple(options)) from None


def _end(*_: object) -> NoReturn:
    sys.exit(0)


def _refusal(settings: ServerSettings, error: OSError) -> str:
    where = _url(settings.host, settings.port)
    reason = error.strerror or str(error)
    return f"cannot listen on {where} ({reason}): --host and --port name another address"


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _prepare(settings: ServerSettings, address: str, *, makes_keys: bool) -> None:
    """Open the database once, create the first keys, and print where the server is."""
    url = settings.database_url
    with opened_database(url, creates=True) as store:
        found = make_first_keys(store) if makes_keys else None
    print(f"Paygent listens on {address}, database {settings.shown_database}")
    if isinstance(found, NoKeys):
        print(found.reason)
    elif isinstance(found, FirstKeys):
        base_url = address
        if settings.host in _ANY_ADDRESS:  # no application can call that address
            port = address.rpartition(":")[2]
            base_url = f"http://{socket.gethostname()}:{port}"
        for line in instructions(found, base_url, shown_option(url)):
            print(line)
    sys.stdout.flush()  # it may be a pipe, and the server runs for long
