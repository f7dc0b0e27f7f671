"""Fixtures of the data tests."""

from tests.data.file_server import server

__all__ = ["server"]
