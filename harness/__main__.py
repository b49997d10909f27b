"""`python -m harness`: the command line where its script is not installed."""

from harness.cli import main

if __name__ == "__main__":
    main()
