"""What makes a client's reads never show anything older than its own writes (S1)."""

from __future__ import annotations

from threading import Lock

from coherenced.client.replies import Version


class Session:
    """The last version this client wrote, so that its reads never show anything older (S1)."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._token = Version()

    @property
    def token(self) -> Version:
        return self._token

    def wrote(self, version: Version) -> None:
        if not version:
            return
        with self._lock:
            held = self._token
            if version.epoch != held.epoch or version.seq > held.seq:
                self._token = version

    def forget(self) -> None:
        """Start anew: the lineage of the token is gone (Redis lost or replaced its data)."""
        with self._lock:
            self._token = Version()
