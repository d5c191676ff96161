"""What all proxies stand in front of: nginx, with answers of several sizes, and a sink for large uploads."""

import shutil
import socket
import threading

from benchmarks.load import Shape
from benchmarks.processes import Broken, Cores, Programs, free_port

INSTALL = "apt-get install nginx-light wrk"

SMALL = Shape("8 B", "/8", b"success\n")
MIDDLE = Shape("10 KB", "/10k", b"m" * 10_240)
LARGE = Shape("1 MB", "/1m", b"l" * 1_048_576)
POST = Shape("POST 10 KB", "/post", b"success\n", body=b"p" * 10_240)
CLOSE = Shape("8 B, close", "/8", b"success\n", close=True)
DOWNLOAD = "/1g"
UPLOAD = "/sink"
GIGABYTE = 1 << 30

# A POST goes through nginx to itself: it reads the whole body before it passes a request on, where `return` alone would
# answer first. The large upload is passed on as it comes, to a server that reads and counts.
_CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; open_file_cache max=16;
    keepalive_requests 1000000000; keepalive_timeout 1h;
    client_max_body_size 0; client_body_buffer_size 64k; client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    proxy_http_version 1.1; proxy_set_header Connection "";
    upstream self {{ server unix:{folder}/nginx.sock; keepalive 512; }}
    server {{ listen unix:{folder}/nginx.sock; location / {{ return 200 "success\\n"; }} }}
    server {{
        listen 127.0.0.1:{port} backlog=4096; root {folder}/files;
        location = /8 {{ return 200 "success\\n"; }}
        location = /post {{ proxy_pass http://self; }}
        location = /sink {{ proxy_request_buffering off; proxy_read_timeout 5m; proxy_pass http://127.0.0.1:{sink}; }}
    }}
}}
"""


def tools() -> tuple[str, str]:
    """Where nginx and wrk are. Raises Broken."""
    found = [shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") for name in ("nginx", "wrk")]
    if found[0] is None or found[1] is None:
        raise Broken(f"nginx or wrk is not here; on Debian and its kin: {INSTALL}")
    return found[0], found[1]


def start(programs: Programs, cores: Cores) -> int:
    """Start nginx and the sink, and see that they do what they shall; nginx's port. Raises Broken."""
    files = programs.folder / "files"
    files.mkdir()
    for shape in (MIDDLE, LARGE):
        (files / shape.path[1:]).write_bytes(shape.answer)
    with (files / DOWNLOAD[1:]).open("wb") as large:
        large.truncate(GIGABYTE)
    port = free_port()
    configuration = programs.folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=programs.folder, port=port, sink=_start_sink()))
    nginx, _ = tools()
    log = programs.folder / "nginx-error.log"
    programs.start("nginx", [nginx, "-c", configuration, "-e", log], cores).listening(port)
    if not _waits_for_body(port):
        raise Broken("nginx answers a POST before it has its body: POSTs would measure nothing")
    return port


def _waits_for_body(port: int) -> bool:
    """Whether a POST is answered only when the last byte of its body was sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=0.3) as client:
        head = f"POST {POST.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(POST.body)}\r\n\r\n".encode()
        client.sendall(head + POST.body[:-1])
        try:
            client.recv(1)
            return False
        except TimeoutError:
            client.settimeout(10)
            client.sendall(POST.body[-1:])
            return client.recv(100).startswith(b"HTTP/1.1 200")


def _start_sink() -> int:
    """A thread that reads the bodies of POSTs with a Content-Length and answers how many bytes they had; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def _serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_swallow, args=(connection,), daemon=True).start()


def _swallow(connection: socket.socket) -> None:
    data = bytearray(1 << 20)
    with connection, connection.makefile("rb") as stream:
        while line := stream.readline():
            length = -1
            while line not in (b"\r\n", b""):
                name, _, text = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(text)
                line = stream.readline()
            got = 0
            while got < length and (
                size := stream.readinto(memoryview(data)[: min(len(data), length - got)])
            ):
                got += size
            answer = str(got).encode() if length >= 0 else b"no content-length"
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
