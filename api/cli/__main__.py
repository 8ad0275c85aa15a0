"""`python -m api.cli` is the command `tidebook`."""

from api.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
