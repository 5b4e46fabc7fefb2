"""An embedded Postgres server, for machines on which none is running."""

from __future__ import annotations
