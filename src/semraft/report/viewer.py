"""A run, a study or a folder of predictions in a browser: pages served on this machine alone."""

import html
import tempfile
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import quote, unquote, urlsplit

from semraft.analysis.study_file import STUDY
from semraft.report.report import write_report

PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}
REFRESH_S = 10
ALIVE_S = 600
"""A folder in which nothing was written for so long is not refreshed any more."""
MOST = 500
"""Most pictures on the page of a folder."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder's page and pictures on 127.0.0.1, not yet started; port 0 takes a free one.

    Raises:
        ValueError: Not a folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'no folder' if folder.exists() else 'not there'}")
    pages = Pages(folder.resolve())
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, pages))


class Pages:
    """The page of a folder, written anew when a file in the folder has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_report = any((folder / name).is_file() for name in (STUDY, "config.json"))
        self.page, self.written_for, self.lock = b"", -1.0, Lock()

    def changed(self) -> float:
        """Time of the newest change, other than of what a report writes."""
        files = (path for path in self.folder.rglob("*") if path.name != "summary.json")
        return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)

    def current(self) -> bytes:
        """The page; a report that can't be written yet is answered with the reason."""
        with self.lock:
            if (changed := self.changed()) != self.written_for:
                self.page, self.written_for = self._report() if self.is_report else self._gallery(), changed
            return self.page

    def _report(self) -> bytes:
        with tempfile.TemporaryDirectory() as place:
            try:
                write_report([self.folder], Path(place) / "page.html")
            except (ValueError, OSError) as error:
                return _page(self.folder.name, f"<p>{html.escape(str(error))}</p>")
            return (Path(place) / "page.html").read_bytes()

    def _gallery(self) -> bytes:
        files = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in PICTURES | VIDEOS)
        tags = []
        for path in files[:MOST]:
            name = path.relative_to(self.folder).as_posix()
            tag = "video controls" if path.suffix.lower() in VIDEOS else "img loading=lazy"
            caption = f"<figcaption>{html.escape(name)}</figcaption>"
            tags.append(
                f'<figure><{tag} src="/{quote(name)}" width="480"></{tag.split()[0]}>{caption}</figure>'
            )
        more = f"<p>and {len(files) - MOST} more</p>" if len(files) > MOST else ""
        return _page(self.folder.name, "".join(tags) + more or "<p>no pictures yet</p>")

    def file(self, path: str) -> Path | None:
        """A picture or video of the folder by the path of an address; None for anything else."""
        found = (self.folder / unquote(path).lstrip("/")).resolve()
        is_shown = found.suffix.lower() in PICTURES | VIDEOS and found.is_relative_to(self.folder)
        return found if is_shown and found.is_file() else None


class Handler(BaseHTTPRequestHandler):
    """Answers for one page and the pictures beside it."""

    def __init__(self, pages: Pages, *arguments: object) -> None:
        self.pages = pages
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answers with the page, a picture, or 404."""
        path = urlsplit(self.path).path
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost"):  # A page elsewhere that points its name at this machine.
            self.send_error(403)
        elif path == "/":
            is_alive = time.time() - self.pages.changed() < ALIVE_S
            self._send(self.pages.current(), "text/html; charset=utf-8", REFRESH_S if is_alive else None)
        elif found := self.pages.file(path):
            self._send(found.read_bytes(), (PICTURES | VIDEOS)[found.suffix.lower()], None)
        else:
            self.send_error(404)

    def _send(self, content: bytes, kind: str, refresh_s: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if refresh_s is not None:
            self.send_header("Refresh", str(refresh_s))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not printed."""


def _page(title: str, body: str) -> bytes:
    style = "<style>body{font-family:sans-serif}figure{display:inline-block;margin:8px}</style>"
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>{style}'
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>".encode()
