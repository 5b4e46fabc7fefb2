"""Authentication and authorization of HTTP requests."""

from __future__ import annotations
