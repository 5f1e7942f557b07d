"""Downloads, against a server on this machine: cut connections, ranges, wrong sums, errors."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jaxsep import cli
from jaxsep.weights import KINDS, Origin, catalogue, fetch

ARCHIVE = Path(__file__).parent / "golden" / "spleeter_2stems.tar.gz"
CONTENT = ARCHIVE.read_bytes()
ORIGIN = Origin("Test weights", "https://example.org", "a licence", "songs", "no")


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT as the server's `behaviour` says, and keeps the ranges that were asked for."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        behaviour = self.server.behaviour
        if behaviour == "missing":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and behaviour != "no ranges" else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour == "cut":
            body = body[: len(CONTENT) // 3]
        elif behaviour == "always cut":
            body = b"" if start else body[:1000]
        self.wfile.write(body)

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def server(monkeypatch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.behaviour, server.asked = "well", []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "cache"))
        server.address = f"http://127.0.0.1:{server.server_port}/2stems.tar.gz"
        publish(monkeypatch, server.address)
        yield server
        server.shutdown()
        thread.join()


def publish(monkeypatch, address, sha256=None):
    """A catalogue with one entry."""
    sha256 = hashlib.sha256(CONTENT).hexdigest() if sha256 is None else sha256
    files = (catalogue.File(address, sha256),) if address else ()
    entry = catalogue.Published("small", "spleeter", "vocals,accompaniment", ORIGIN, "none", files)
    monkeypatch.setattr(catalogue, "PUBLISHED", (entry,))


@pytest.fixture
def no_import(monkeypatch):
    """Only the download: what would be imported."""
    calls = []
    monkeypatch.setattr(fetch, "import_weights", lambda *arguments: calls.append(arguments))
    return calls


def run(tmp_path, capsys):
    status = cli.main(["weights", "fetch", "small", str(tmp_path / "run")])
    return status, capsys.readouterr().err


def downloaded(tmp_path):
    return tmp_path / "cache" / "weights" / "small" / "2stems.tar.gz"


def test_fetched_weights_are_a_run(server, tmp_path, capsys):
    pytest.importorskip("tensorflow", reason="the extra train brings TensorFlow")
    status, err = run(tmp_path, capsys)
    assert status == 0
    assert "Test weights\nlicence: a licence; training data: songs; commercial use: no\n" in err
    head = json.loads((tmp_path / "run" / "MODEL_CARD.md").read_text().split("---\n")[1])
    assert head["license"] == "a licence" and head["commercial_use"] == "no"
    assert head["origin"] == {"name": "Test weights", "address": "https://example.org"}


def test_a_second_fetch_downloads_nothing(server, no_import, tmp_path, capsys):
    for _ in range(2):
        assert run(tmp_path, capsys)[0] == 0
    assert server.asked == [None] and downloaded(tmp_path).read_bytes() == CONTENT
    (_, files, out, _, name), _ = no_import
    assert files == [downloaded(tmp_path)] and out == tmp_path / "run" and name == "small"


def test_cut_connections_are_resumed(server, no_import, tmp_path, capsys):
    server.behaviour = "cut"
    assert run(tmp_path, capsys)[0] == 0
    third = len(CONTENT) // 3
    assert server.asked[:3] == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert downloaded(tmp_path).read_bytes() == CONTENT and no_import


def test_a_later_command_goes_on(server, no_import, tmp_path, capsys):
    server.behaviour = "always cut"
    status, err = run(tmp_path, capsys)
    assert status == 2 and not no_import
    assert "the connection was cut at 1,000 bytes; the same command goes on from there" in err
    server.behaviour, server.asked = "well", []
    assert run(tmp_path, capsys)[0] == 0
    assert server.asked == ["bytes=1000-"] and downloaded(tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server, no_import, tmp_path, capsys):
    part = downloaded(tmp_path).with_name("2stems.tar.gz.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 500)
    server.behaviour = "no ranges"
    assert run(tmp_path, capsys)[0] == 0
    assert server.asked == ["bytes=500-"] and downloaded(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_all_or_too_much(server, no_import, tmp_path, capsys, part):
    path = downloaded(tmp_path).with_name("2stems.tar.gz.part")
    path.parent.mkdir(parents=True)
    path.write_bytes(part)
    assert run(tmp_path, capsys)[0] == 0
    assert downloaded(tmp_path).read_bytes() == CONTENT


def test_a_wrong_sum_deletes_the_file(server, no_import, tmp_path, capsys, monkeypatch):
    publish(monkeypatch, server.address, "0123abcd")
    status, err = run(tmp_path, capsys)
    assert status == 2 and "expected 0123abcd; deleted; try again" in err and not no_import
    assert not downloaded(tmp_path).exists() and not (tmp_path / "run").exists()


def test_published_digits_are_enough(server, no_import, tmp_path, capsys, monkeypatch):
    publish(monkeypatch, server.address, hashlib.sha256(CONTENT).hexdigest()[:8])
    assert run(tmp_path, capsys)[0] == 0 and no_import


def test_no_published_sum_is_said(server, no_import, tmp_path, capsys, monkeypatch):
    publish(monkeypatch, server.address, "")
    status, err = run(tmp_path, capsys)
    assert status == 0 and "its authors state none to compare with" in err


def test_missing_and_unreachable_files(server, no_import, tmp_path, capsys, monkeypatch):
    server.behaviour = "missing"
    status, err = run(tmp_path, capsys)
    assert status == 2 and "HTTP 404 Not Found; see https://example.org and run `jaxsep weights import spleeter" in err
    publish(monkeypatch, "http://127.0.0.1:9/2stems.tar.gz")
    status, err = run(tmp_path, capsys)
    last = err.splitlines()[-1]
    assert status == 2 and "http://127.0.0.1:9/2stems.tar.gz: cannot be reached" in last
    assert "to download it by hand see https://example.org and run `jaxsep weights import spleeter FILE..." in last
    assert not no_import


def test_weights_that_nobody_serves(no_import, tmp_path, capsys, monkeypatch):
    publish(monkeypatch, "")
    status, err = run(tmp_path, capsys)
    assert status == 2 and "see https://example.org and import the TensorFlow checkpoint" in err


def test_an_existing_folder_is_refused_before_the_download(server, no_import, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    status, err = run(tmp_path, capsys)
    assert status == 2 and "exists" in err and server.asked == []


def test_catalogue():
    """Every entry has a kind, an address with its sum or none, and all the facts that the card shows."""
    names = [entry.name for entry in catalogue.PUBLISHED]
    assert len(set(names)) == len(names) and {entry.kind for entry in catalogue.PUBLISHED} == set(KINDS)
    for entry in catalogue.PUBLISHED:
        assert all((entry.sources, entry.score, entry.origin.licence, entry.origin.training_data))
        for file in entry.files:
            assert file.address.startswith(("https://", "http://intelligence.korea.ac.kr/"))
            assert file.sha256 == file.sha256.lower() and len(file.sha256) in (0, 8, 64)
        if entry.kind == "openunmix":
            assert all(file.name.endswith(f"-{file.sha256}.pth") for file in entry.files)


def test_list(capsys):
    assert cli.main(["weights", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["umxl"]["commercial_use"] == "no" and rows["umxl"]["licence"] == "CC BY-NC-SA 4.0"
    assert rows["d3net"]["files"][0]["sha256"] == "not stated" and rows["cunet"]["files"] == "by hand"
    assert "museval" in rows["spleeter-4stems"]["score"]
    assert cli.main(["weights", "list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in rows) and "https://zenodo.org/records/3370489" in text
