"""`python -m kv.cli` is `kv`."""

from . import main

if __name__ == "__main__":
    main()
