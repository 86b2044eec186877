"""Train a classifier, from labelled text to a directory that anyone can load.

    accelerate launch training/train_classifier.py                        # built in: German or English?
    accelerate launch training/train_classifier.py --dataset reviews.tsv --label_names negative positive
    accelerate launch training/train_classifier.py --init_from runs/encoder --dataset reviews.tsv

The folder that it leaves holds weights, config, tokenizer, the code of the model, card, loss curve, confusion matrix:

    pipeline("text-classification", "runs/classifier", trust_remote_code=True)
"""

from scratch_gpt.train.engine.command import run_command
from scratch_gpt.train.jobs import classifier, train

if __name__ == "__main__":
    run_command(lambda: train(classifier, __doc__ or ""))
