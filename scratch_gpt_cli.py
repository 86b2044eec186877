"""The entry point of the command `scratch-gpt`.

Importing scratch_gpt registers its classes with transformers, for which PyTorch is imported; that takes seconds. Where
this module is loaded, the package leaves registration to the command, so that `scratch-gpt --help` answers at once.
"""


def main() -> None:
    """Run the command line."""
    from scratch_gpt.cli.app import main

    main()
