"""``python -m rehydrate`` is the command line."""

from __future__ import annotations

import sys

from rehydrate.cli.main import main

sys.exit(main())
