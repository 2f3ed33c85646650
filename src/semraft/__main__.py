"""`python -m semraft`: the same as the command `semraft`."""

from semraft.cli.main import main

if __name__ == "__main__":
    main()
