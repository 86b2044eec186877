"""The entry point of the command `scratch-gpt`.

Importing scratch_gpt registers its classes with transformers, which imports PyTorch and takes seconds. If this module
is loaded, the package leaves registration to the command, so that `scratch-gpt --help` is fast.
"""


def main() -> None:
    """Run the command line."""
    from scratch_gpt.cli.app import main

    main()
