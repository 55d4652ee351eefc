"""The file system of an address: fsspec, and the package that it needs."""

from __future__ import annotations

from typing import Any

from trackside.callbacks._util.imports import require_package
from trackside.callbacks.errors import ArgumentError, MissingPackageError, describe, did_you_mean

EXTRAS = {"fsspec": "remote", "s3fs": "s3"}
"""The extras of trackside that install a package."""

LOCAL = frozenset({"file", "local"})


def opened(address: str, field: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Args:
        address: Such as s3://bucket/run.
        field: The argument that it was given for.

    Raises:
        MissingPackageError: If fsspec, or the package for this kind of address, is not installed.
        ArgumentError: If fsspec does not know this kind of address.
    """
    require_package("fsspec", f"{field}={address!r}", extra=EXTRAS["fsspec"])
    import fsspec
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0].rpartition("::")[2]
    known = known_implementations.get(protocol)
    try:
        options = {"auto_mkdir": True} if protocol in LOCAL else {}
        fs, root = fsspec.url_to_fs(address, use_listings_cache=False, **options)
    except ImportError as error:
        package = known["class"].split(".")[0] if known is not None else protocol
        missing = getattr(error.__cause__, "name", None) or error.name
        package = (missing or package).split(".")[0] if package == "fsspec" else package
        raise MissingPackageError(package, f"{field}={address!r}", extra=EXTRAS.get(package)) from error
    except Exception as error:
        if known is not None:
            raise ArgumentError(field, address, f"an address that opens: {describe(error)}") from error
        near = did_you_mean(protocol, known_implementations)
        raise ArgumentError(field, address, f"a path, or an address of a kind that fsspec knows.{near}") from None
    return fs, str(root).rstrip("/")
