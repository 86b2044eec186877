"""`python -m scratch_gpt` is `scratch-gpt`."""

from .cli.app import main

if __name__ == "__main__":
    main()
