"""Downloads from file:// and a local server: checked, resumed, unpacked safely."""

import hashlib
import io
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recipes.AN4.download import download, unpack

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A local server with ranges; `asked` notes them, `dies_after` breaks an answer off there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            http.asked.append(asked)
            start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and http.ranges else 0
            if self.path != "/corpus.bin":
                return self.send_error(404)
            if start >= len(CONTENT):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : http.dies_after])

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.asked, http.dies_after, http.ranges = [], None, True
    http.url = f"http://127.0.0.1:{http.server_port}/corpus.bin"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()


def published(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "corpus.bin").write_bytes(CONTENT)
    return (tmp_path / "web" / "corpus.bin").as_uri()


def test_a_file_is_fetched_checked_and_then_kept(tmp_path):
    url = published(tmp_path)
    path = download(url, tmp_path / "here", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    (tmp_path / "web" / "corpus.bin").unlink()
    assert download(url, tmp_path / "here", sha256=SHA256) == path
    assert [file.name for file in path.parent.iterdir()] == ["corpus.bin"]


def test_a_wrong_checksum_is_refused_and_the_file_removed(tmp_path):
    with pytest.raises(ValueError, match=f"must have the sha256 {'0' * 64}, got {SHA256}"):
        download(published(tmp_path), tmp_path / "here", sha256="0" * 64)
    assert not list((tmp_path / "here").iterdir())


def test_a_damaged_file_that_is_there_already_is_not_trusted(tmp_path):
    (tmp_path / "corpus.bin").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="must have the sha256"):
        download("http://127.0.0.1:9/corpus.bin", tmp_path, sha256=SHA256)


def test_a_download_that_broke_off_goes_on_where_it_stopped(tmp_path, server):
    server.dies_after = 300_000
    with pytest.raises(FileNotFoundError, match=r"ended after \d+ of 1024000 bytes; run again to resume"):
        download(server.url, tmp_path, sha256=SHA256)
    n_there = (tmp_path / "corpus.bin.part").stat().st_size
    assert 0 < n_there <= 300_000
    server.dies_after = None
    assert download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={n_there}-"]
    assert not (tmp_path / "corpus.bin.part").exists()


def test_a_server_without_ranges_starts_again(tmp_path, server):
    (tmp_path / "corpus.bin.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    assert download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_a_part_that_was_whole_is_only_renamed(tmp_path, server):
    (tmp_path / "corpus.bin.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/corpus.bin", "http://no-such-host.invalid/corpus.bin"])
def test_without_a_network_one_sentence_says_what_to_do(tmp_path, url):
    with pytest.raises(FileNotFoundError, match=r"could not download .*run again to resume") as caught:
        download(url, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_the_server_does_not_have_is_a_sentence(tmp_path, server):
    with pytest.raises(FileNotFoundError, match="could not download"):
        download(server.url.replace("corpus", "other"), tmp_path)


def make_tar(path, names):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    return path


def test_an_archive_is_unpacked_once(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", ["an4/etc/x", "an4/wav/y"])
    assert unpack(archive, tmp_path, creates="an4") == tmp_path / "an4"
    assert (tmp_path / "an4" / "wav" / "y").read_bytes() == b"abc"
    archive.unlink()
    assert unpack(archive, tmp_path, creates="an4") == tmp_path / "an4"
    assert [file.name for file in tmp_path.iterdir()] == ["an4"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["../evil", "an4/x"], "cannot be unpacked"), (["other/x"], "must hold the folder an4, found other")],
)
def test_an_unsafe_or_other_archive_is_refused_and_leaves_nothing(tmp_path, names, message):
    archive = make_tar(tmp_path / "a.tar.gz", names)
    with pytest.raises(ValueError, match=message):
        unpack(archive, tmp_path / "here", creates="an4")
    assert not list((tmp_path / "here").iterdir())
    assert not (tmp_path / "evil").exists()


def test_a_damaged_archive_is_refused(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", [f"an4/{index}" for index in range(99)])
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "here", creates="an4")
    assert not (tmp_path / "here" / "an4").exists()
