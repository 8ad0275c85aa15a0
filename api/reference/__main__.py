"""`python -m api.reference docs/reference`: write the reference pages."""

from __future__ import annotations

import sys
from pathlib import Path

from api.reference import write

if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        sys.stdout.write(f"{written}\n")
