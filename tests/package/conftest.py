"""Fixtures of other folders that these tests use."""

from __future__ import annotations

from tests.pipelines.conftest import head

__all__ = ["head"]
