"""`python -m segray`: the command line."""

from segray.pipelines.cli import main

if __name__ == "__main__":
    main()
