"""Language modelling: GPTs, pre-trained on text."""
