"""The command: its options, and the two ways to hand out metrics, by HTTP until it is ended, or once."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from typing import Any, NamedTuple

from shmstate import InvalidOption
from shmstate.serving import signals_held


class Address(NamedTuple):
    """Where to listen. Port 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


#: Outside of 9100 to 9999, which Prometheus's list of default ports has given away. 9464 is OpenTelemetry's, and programs
#: that have states to watch may well have that in them.
DEFAULT = Address("127.0.0.1", 19464)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command ``export`` its options, and this module to run them."""
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that begin so")
    parser.add_argument("--prometheus", action="store_true", required=True, help="as metrics for Prometheus")
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--listen",
        type=address_of,
        default=DEFAULT,
        metavar="ADDRESS:PORT",
        help=f"where to serve them by HTTP until SIGINT or SIGTERM; port 0 takes a free one; default: {DEFAULT}",
    )
    way.add_argument("--once", action="store_true", help="print them, and end")
    parser.add_argument("--output", metavar="FILE", help="with --once: write them there, the whole file at once")
    parser.set_defaults(command=export, refuse=parser.error)


def address_of(text: str) -> Address:
    """What ``--listen`` means. Raises ArgumentTypeError."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise argparse.ArgumentTypeError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:{DEFAULT.port}")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no ADDRESS:PORT, as {DEFAULT} is; 0.0.0.0:{DEFAULT.port} is every address of this machine"
        )
    return Address(host, int(port))


def export(arguments: argparse.Namespace) -> int:
    """Serve the metrics until told to end, or hand them out once; returns the exit status. Raises InvalidOption."""
    if arguments.output is not None and not arguments.once:
        arguments.refuse("argument --output: only with --once")
    if arguments.json and arguments.once:
        arguments.refuse("argument --json: not allowed with argument --once, which has a format of its own")
    try:
        from prometheus_client import generate_latest

        from shmstate.export.metrics import registry_of
    except ImportError as error:
        raise InvalidOption(
            f"--prometheus needs prometheus_client ({error}): pip install 'shmstate[prometheus]'"
        ) from error
    registry = registry_of(arguments.prefix)
    if not arguments.once:
        return _serve(registry, arguments.listen, arguments.json)
    exposition = generate_latest(registry)
    if arguments.output is not None:
        _replace(arguments.output, exposition)
    else:
        sys.stdout.buffer.write(exposition)  # UTF-8 whatever the terminal has
    return 0


def _serve(registry: Any, address: Address, as_json: bool) -> int:
    with signals_held() as wait:
        server = _listen(registry, address)
        try:
            _say_where(Address(*server.server_address[:2]), as_json)
            return wait()
        finally:
            server.shutdown()
            server.server_close()


def _listen(registry: Any, address: Address) -> Any:
    from prometheus_client import start_http_server

    try:
        server, _ = start_http_server(address.port, address.host, registry)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that can be none
        raise InvalidOption(
            f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}."
            f" --listen ADDRESS:PORT takes another; port 0 is any that is free"
        ) from error
    return server


def _say_where(address: Address, as_json: bool) -> None:
    url = f"http://{address}/metrics"
    if as_json:
        print(json.dumps({"url": url, **address._asdict()}), flush=True)
    else:
        print(f"metrics are at {url}", flush=True)


def _replace(path: str, content: bytes) -> None:
    """Write a file so that whoever reads it meanwhile reads the one before, or this one, whole."""
    draft = f"{path}.{os.getpid()}"  # node_exporter reads what ends in .prom
    try:
        try:
            with open(draft, "wb") as file:
                file.write(content)
            os.replace(draft, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft)
            raise
    except OSError as error:
        raise InvalidOption(f"cannot write --output {path!r}: {error.strerror}; it takes a file in a folder") from error
