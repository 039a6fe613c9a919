"""What libraries are kept from loading, and that nothing else changes for those who use them."""

from __future__ import annotations

import ssl
import subprocess
import sys

import pytest

from coherenced.lean import without, without_authorities


def test_a_module_is_not_to_be_found_meanwhile() -> None:
    sys.modules.pop("colorsys", None)
    with without("colorsys"), pytest.raises(ImportError):
        import colorsys
    import colorsys

    with without("colorsys"):  # who has it keeps it
        import colorsys as again
    assert again is colorsys and sys.modules["colorsys"] is colorsys


def test_contexts_trust_nobody_meanwhile() -> None:
    with without_authorities():
        inside = ssl.create_default_context()
    assert inside.verify_mode == ssl.CERT_REQUIRED and inside.check_hostname
    assert "set_default_verify_paths" not in vars(ssl.SSLContext)
    if ssl.create_default_context().cert_store_stats()["x509"]:
        assert inside.cert_store_stats()["x509"] == 0


DAEMON = """
import sys
import coherenced.daemon
import aiohttp.connector, ssl
unused = ("rich", "prometheus_client", "http.server", "ctypes")
print(*(name for name in unused if name in sys.modules))
print(aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"])
print("set_default_verify_paths" in vars(ssl.SSLContext))
"""


def test_a_daemon_starts_without_what_it_may_never_use() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DAEMON], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["", "0", "False"]
