"""What a user does with a model directory, without the package: load, run, generate, use a pipeline, save and reload.

`releases.py` runs this in an environment of each release of transformers and compares the results:

    python -I benchmarks/release_acts.py KIND=DIR … [--remote_code] [--with_package]

KIND is the model's, as in `AUTO_CLASSES`. Prints one JSON object: per directory and act, its result (token ids, logits
or texts), or `{"error": …}`. It uses nothing that a release from 4.56 on lacks.
"""

import argparse
import importlib
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import transformers

AUTO_CLASSES = {
    "causal": "AutoModelForCausalLM",
    "bigram": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked": "AutoModelForMaskedLM",
    "classifier": "AutoModelForSequenceClassification",
}
TEXTS = ["the dog sees a cat", "a cat", "one day the small dog"]
NEW_TOKENS = 16


class Acts:
    """The acts on one model directory."""

    def __init__(self, kind: str, folder: str, remote_code: bool):
        self.kind, self.folder = kind, folder
        self.remote = {"trust_remote_code": True} if remote_code else {}
        self.auto_class = getattr(transformers, AUTO_CLASSES[kind])

    def run(self) -> dict[str, Any]:
        """Run all acts. If the model can't be loaded, that is the only result."""
        results = {"load": attempt(self.load)}
        if "error" in results["load"]:
            return results
        return results | {act.__name__: attempt(act) for act in self.acts()}

    def acts(self) -> list[Callable[[], Any]]:
        """The acts after loading, by kind of model."""
        with_caches = [self.no_cache, self.static_cache, *([self.cache_names] if self.remote else [])]
        generation = [self.greedy, self.sampling, self.beams]
        # transformers 5 has no pipeline for encoder-decoders; ours is part of the model directory.
        pipeline_of_seq2seq = [self.pipeline] if self.remote else []
        return {
            "causal": [*generation, *with_caches, self.padding, self.pipeline, self.save],
            "bigram": [*generation, self.padding, self.pipeline, self.save],
            "seq2seq": [*generation, *with_caches, self.padding, *pipeline_of_seq2seq, self.save],
            "masked": [self.padding, self.pipeline, self.save],
            "classifier": [self.padding, self.pipeline, self.save],
        }[self.kind]

    def load(self) -> Any:
        """Load config, tokenizer and model; the logits of a text."""
        transformers.AutoConfig.from_pretrained(self.folder, **self.remote)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **self.remote)
        self.tokenizer.padding_side = "left"
        self.model = self.auto_class.from_pretrained(self.folder, **self.remote).eval()
        return [*self.tokenizer(TEXTS)["input_ids"], self.logits()]

    def logits(self) -> list:
        """The logits of a text."""
        inputs = self.inputs(TEXTS[:1])
        if self.kind == "seq2seq":
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with torch.no_grad():
            return self.model(**inputs).logits.tolist()

    def inputs(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Encode texts, with padding on the left."""
        return dict(self.tokenizer(texts, return_tensors="pt", padding=len(texts) > 1))

    def generate(self, texts: list[str], **settings: Any) -> list:
        """Generate with fixed length, so that every result has as many tokens as it can."""
        inputs = self.inputs(texts)
        options = {"do_sample": False, "num_beams": 1, "max_length": None, "early_stopping": False}
        options |= {"max_new_tokens": NEW_TOKENS, **settings}
        return self.model.generate(**inputs, **options).tolist()

    def greedy(self) -> list:
        """Greedy decoding."""
        return self.generate(TEXTS[:1])

    def sampling(self) -> list:
        """Sampling with a fixed seed."""
        torch.manual_seed(0)
        return self.generate(TEXTS[:1], do_sample=True, top_k=0, temperature=1.0)

    def beams(self) -> list:
        """Beam search."""
        return self.generate(TEXTS[:1], num_beams=4)

    def no_cache(self) -> list:
        """Greedy decoding that computes all positions again for every token."""
        return self.generate(TEXTS[:1], use_cache=False)

    def static_cache(self) -> list:
        """Greedy decoding with a cache of fixed size."""
        return self.generate(TEXTS[:1], cache_implementation="static")

    def padding(self) -> list:
        """A batch of texts of different lengths: generated tokens, logits of masked tokens or of classes."""
        if self.kind in ("causal", "bigram", "seq2seq"):
            return self.generate(TEXTS)
        inputs = self.inputs(TEXTS)
        with torch.no_grad():
            logits = self.model(**inputs).logits
        return logits[inputs["attention_mask"].bool()].tolist() if self.kind == "masked" else logits.tolist()

    def cache_names(self) -> list:
        """Logits of the last token from a cache that is passed under its old and under its new name."""
        ids = self.inputs(TEXTS[:1])["input_ids"]
        before, last = ids[:, :-1], ids[:, -1:]
        found = []
        for name in ("past_key_values", "cache"):
            with torch.no_grad():
                if self.kind == "seq2seq":
                    outputs = self.model(input_ids=ids, decoder_input_ids=before, use_cache=True)
                    cached = {"input_ids": ids, "decoder_input_ids": last}
                else:
                    outputs, cached = self.model(before, use_cache=True), {"input_ids": last}
                cache = outputs["cache"] if "cache" in outputs else outputs["past_key_values"]
                found.append(self.model(**cached, **{name: cache}, use_cache=True).logits.tolist())
        return found

    def pipeline(self) -> Any:
        """The pipeline of the kind of model."""
        names = {"causal": "text-generation", "bigram": "text-generation", "masked": "fill-mask"}
        names |= {"classifier": "text-classification"}
        if self.kind == "seq2seq":
            names["seq2seq"] = next(iter(self.model.config.custom_pipelines))
        task = names[self.kind]
        pipe = transformers.pipeline(task, self.folder, **self.remote)
        if task == "text-generation":
            return pipe(TEXTS[0], max_new_tokens=NEW_TOKENS, do_sample=False)
        if task == "fill-mask":
            return pipe(f"the {pipe.tokenizer.mask_token} sees", top_k=3)
        return pipe(TEXTS[0], max_length=2 * NEW_TOKENS) if self.kind == "seq2seq" else pipe(TEXTS[0])

    def save(self) -> Any:
        """Save the model with its code and tokenizer, load it again, and return the logits."""
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            again = Acts(self.kind, folder, bool(self.remote))
            return again.load()


def attempt(act: Callable[[], Any]) -> Any:
    """The result of an act, or its error in one line."""
    try:
        return {"result": act()}
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:400]}


def main() -> None:
    """Run the acts on each model directory, and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="KIND=DIR", help=f"KIND: {', '.join(AUTO_CLASSES)}")
    parser.add_argument("--remote_code", action="store_true", help="load with trust_remote_code")
    parser.add_argument("--with_package", action="store_true", help="with the classes of the package")
    parser.add_argument("--debug", action="store_true", help="print tracebacks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    if args.with_package:
        importlib.import_module("scratch_gpt")
    else:
        sys.modules["scratch_gpt"] = None  # as if it were not installed
    results = {}
    for model in args.models:
        kind, folder = model.split("=", 1)
        results[folder] = Acts(kind, folder, args.remote_code).run()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
