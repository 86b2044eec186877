"""Train distillation under `accelerate launch`; see `scratch-gpt train distillation --help`."""

from scratch_gpt.train.engine.command import train_command
from scratch_gpt.train.tasks import description_of, recipe_of

if __name__ == "__main__":
    train_command(recipe_of("distillation"), description_of("distillation"))
