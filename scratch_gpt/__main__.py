"""Entry point of `python -m scratch_gpt`, the same as `scratch-gpt`."""

from .cli.app import main

if __name__ == "__main__":
    main()
