"""Builds the website and serves it on this computer only.

python chapters/site/serve.py     build, serve on 127.0.0.1, and open the first page in the browser
"""

import functools
import http.server
import sys
import webbrowser

import build

HOST, PORT = "127.0.0.1", 8000


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_: object) -> None:
        """Keep requests off the terminal."""


def server(folder: str, port: int = PORT) -> http.server.ThreadingHTTPServer:
    """A server of a folder on 127.0.0.1, at any free port if the given one is in use."""
    handler = functools.partial(Handler, directory=folder)
    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except OSError:
        return http.server.ThreadingHTTPServer((HOST, 0), handler)


def main() -> None:
    """Build and serve until Ctrl-C."""
    build.main()
    with server(str(build.BUILD / "html")) as running:
        address = f"http://{HOST}:{running.server_port}/"
        print(f"Serving the book at {address} until you press Ctrl-C.", flush=True)
        webbrowser.open(address)
        running.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
