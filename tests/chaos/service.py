"""`rehydrate`, with background tasks that a signal kills."""

from __future__ import annotations

import sys

from chaos.killing import install
from rehydrate.cli.main import main

if __name__ == "__main__":
    install()
    sys.exit(main())
