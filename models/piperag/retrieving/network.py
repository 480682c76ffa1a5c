"""The command that starts a retrieval server (:mod:`models.piperag.retrieving.serving`).

Only the standard library is imported before the threads of the libraries are set.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from models.piperag.retrieving.hosting import end_with_parent, host_environment, pin
from results.errors import EXIT_OK, EXIT_RUN_FAILED, ConfigError, TenfoldError

_EXAMPLES = """\
examples:
  python -m models.piperag.retrieving.network --backend my.package.open_index --set path='"index.faiss"'
  python -m models.piperag.retrieving.network --backend my.package.open_index --bind 127.0.0.1:5555 --cores 1 --threads 1
  python -m models.piperag.retrieving.network --backend my.package.open_index --bind 10.0.0.7:5555 --token-file ~/.retriever-token

When the backend is built, one line of JSON is printed: {"address": "tcp://127.0.0.1:41213", "pid": ..., "chunk_tokens": ...}.
SIGTERM or Ctrl-C ends the server.
"""


def parser() -> argparse.ArgumentParser:
    """The command's words."""
    words = argparse.ArgumentParser(
        prog="python -m models.piperag.retrieving.network",
        description="Serve retrievals to several generators over ZeroMQ.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("--backend", required=True, metavar="PATH", help="dotted path of a callable that returns the backend")
    words.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="keyword argument of it; may be repeated")
    words.add_argument(
        "--bind", default="127.0.0.1:0", metavar="HOST:PORT",
        help="where to listen (default: a free port of the loopback); an address that other machines reach needs a token",
    )  # fmt: skip
    words.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token that every client must give")
    words.add_argument("--cores", metavar="0,1", help="cores that the server may use (default: those it is started on)")
    words.add_argument("--threads", type=int, default=1, help="threads of BLAS and OpenMP libraries (default: %(default)s)")
    words.add_argument("--end-with-parent", action="store_true", help="end when the process that started the server ends")
    return words


def keywords(settings: Sequence[str]) -> dict[str, object]:
    """``KEY=JSON`` as keyword arguments.

    Raises:
        ConfigError: one is not of that form.
    """
    found: dict[str, object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            if not equals or not key.isidentifier():
                raise ValueError("there is no KEY=")
            found[key] = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"'{setting}' is not KEY=JSON: {error}", where="--set", next_step="write name='\"text\"'") from None
    return found


def _cores(text: str) -> list[int]:
    try:
        return [int(core) for core in text.split(",")]
    except ValueError:
        raise ConfigError(f"'{text}' is no list of cores", where="--cores", next_step="write 0,1") from None


def read_token(path: Path | None) -> str:
    """The token in a file, "" for no file.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if path is None:
        return ""
    try:
        token = path.expanduser().read_text().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the token cannot be read: {error}", where=str(path), next_step="name a text file") from None
    if not token:
        raise ConfigError("the token is empty", where=str(path), next_step="write a long random word into the file")
    return token


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes.

    Returns:
        Exit status: 0 after a signal, that of the error otherwise.
    """
    given = parser().parse_args(arguments)
    try:
        if given.end_with_parent:
            end_with_parent(os.getppid())
        if given.cores is not None:
            pin(_cores(given.cores))
        if given.threads < 1:
            raise ConfigError("a server needs a thread", where="--threads", next_step="give at least one")
        environment = host_environment(os.environ, given.threads)
        os.environ.clear()
        os.environ.update(environment)
        return _serve(given.backend, keywords(given.set), given.bind, read_token(given.token_file))
    except TenfoldError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code


def _serve(backend: str, settings: dict[str, object], bind: str, token: str) -> int:
    from models.piperag.retrieving.backends import BackendSpec
    from models.piperag.retrieving.serving import Server

    server = Server(BackendSpec(backend, settings), bind=bind, token=token)
    signal.set_wakeup_fd(server.wake_descriptor)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    try:
        chunk_tokens = server.wait_until_built()
        if chunk_tokens:
            print(json.dumps({"address": server.address, "pid": os.getpid(), "chunk_tokens": chunk_tokens}), flush=True)
        server.serve()
    finally:
        signal.set_wakeup_fd(-1)
        if not server.close():
            sys.stderr.flush()
            # A thread that comes back from its backend while the interpreter ends would crash it.
            os._exit(EXIT_RUN_FAILED if sys.exc_info()[0] else EXIT_OK)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
