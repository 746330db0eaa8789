"""HTTPS of the service: a certificate and its private key, checked before Ray starts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from changenet import storage
from changenet.errors import Problem, SpecError


@dataclass(frozen=True)
class Tls:
    """Files (PEM) that the head node reads.

    Args:
        certificate: The certificate, with those between it and the root.
        key: Its private key, without a passphrase.
    """

    certificate: str
    key: str

    @classmethod
    def chosen(cls, certificate: str | None, key: str | None) -> Tls | None:
        """Return both as absolute paths, or None for plain HTTP.

        Raises:
            SpecError: Only one of them is given.
        """
        if certificate and key:
            return cls(storage.absolute(certificate), storage.absolute(key))
        if certificate or key:
            fix = "Give --tls-certificate and --tls-key, or serve.tls_certificate and serve.tls_key in the spec."
            raise SpecError("HTTPS needs a certificate and its private key, and one of them is missing", fix=fix)
        return None

    def problems(self) -> list[Problem]:
        """Say what is wrong with the files, if they can be looked at from here."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(
                self.certificate, self.key, password=lambda: ""
            )  # else openssl asks on the terminal
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            where = f"{self.certificate}, {self.key}"
            fix = "Give PEM files that belong together, the key without a passphrase."
            return [Problem(f"cannot be used for HTTPS ({reason})", where, fix)]
        return []

    def http_options(self) -> dict[str, str]:
        """Return what Ray Serve wants to know."""
        return {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}


def probe_context() -> ssl.SSLContext:
    """Return what our own look at our own port uses: nothing secret is sent, and the name need not be the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
