"""Temporary."""
from __future__ import annotations
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

class Sockets(NamedTuple):
    resp: list[socket.socket]
    http: list[socket.socket]
    def close(self) -> None:
        for s in (*self.resp, *self.http):
            s.close()

def _unix(path: Path, mode: int) -> socket.socket:
    path.unlink(missing_ok=True)
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(path)); path.chmod(mode); s.listen(4096); s.setblocking(False)
    return s

def _tcp(addr: Any) -> socket.socket:
    s = socket.create_server((addr.host, addr.port)); s.setblocking(False)
    return s

def open_sockets(listen: Any, paths: Any, environ: Mapping[str, str]) -> Sockets:
    resp=[_unix(paths.socket, listen.socket_mode_bits)]
    http=[_unix(paths.http_socket, listen.socket_mode_bits)]
    if listen.tcp_address: resp.append(_tcp(listen.tcp_address))
    if listen.http_address: http.append(_tcp(listen.http_address))
    return Sockets(resp, http)
