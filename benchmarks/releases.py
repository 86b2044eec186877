"""Which releases of transformers open our model directories: release × model × act, beside the newest release.

    python benchmarks/releases.py                            # every minor release
    python benchmarks/releases.py --releases 5.10 5.24 --markdown docs/reference/releases.md

It writes a small model of each family with random weights, once with this package's code (`auto_map`) and, where
transformers has a class for it, once in that class. For each release it makes a virtual environment, which shares all
packages of this one but transformers and what that release requires in other versions, and runs `release_acts.py` in
it, without this package. An act passes if its tokens and texts equal those of this environment with the package, and
its numbers differ by less than 1e-4. The exit status is 1 if an act failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

ACTS = Path(__file__).with_name("release_acts.py")
ENVIRONMENTS = Path(__file__).parents[1] / ".releases"
OLDEST, OLDEST_NATIVE = "5.0", "4.56"  # releases that open models with our code, and in transformers' own class
TOLERANCE = 1e-4
TEXTS = ["the dog sees a cat. one day the small dog runs.", "a cat sleeps; the cat and the dog play in the garden."] * 8


@dataclass(frozen=True)
class Model:
    """A model directory: its name in the table, its kind, and whether it contains our code."""

    name: str
    kind: str
    folder: Path
    remote_code: bool
    since: str


def write_models(folder: Path) -> list[Model]:
    """Write the model directories of all families, with random weights, and native twins of those that have one."""
    from scratch_gpt import train_tokenizer
    from scratch_gpt.hub.model_directory import set_generation_defaults, set_translation_defaults
    from scratch_gpt.hub.native.convert import export_native, find_twin, save_native
    from scratch_gpt.tokenization.chat import add_chat_template
    from scratch_gpt.tokenization.saving import save_tokenizer

    models = []
    for name, (kind, build) in families().items():
        template: Any = {"seq2seq": "seq2seq", "masked": "encoder", "classifier": "encoder"}.get(kind, "causal")
        tokenizer = train_tokenizer(TEXTS, "bpe", 300, template=template)
        if name == "llama":
            add_chat_template(tokenizer)
        torch.manual_seed(1)
        model = build(tokenizer).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if parameter.ndim == 1 else 0.0))
        if kind == "seq2seq":
            set_translation_defaults(model, tokenizer, num_beams=4)
        elif model.can_generate():
            set_generation_defaults(model, tokenizer)
        versions = [(name, model, True, OLDEST)]
        twin, reasons = find_twin(model)
        if twin is not None and not reasons:
            versions.append((f"{name}, native", export_native(model), False, twin.since))
        for title, version, remote_code, since in versions:
            target = folder / re.sub(r"\W+", "_", title)
            version.save_pretrained(target) if remote_code else save_native(version, target)
            save_tokenizer(tokenizer, target)
            models.append(Model(title, kind, target, remote_code, since))
    return models


def families() -> dict[str, tuple[str, Any]]:
    """Kind and builder of a model for each name in the table."""
    import scratch_gpt as ours

    def ids(tokenizer: Any) -> dict[str, Any]:
        names = ("pad_token_id", "bos_token_id", "eos_token_id")
        return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}

    shape = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}

    def gpt(preset: str, model_class: Any = None, **fields: Any) -> Any:
        model_class = model_class or ours.ScratchGPTForCausalLM
        fields = {"num_hidden_layers": 2, **shape, **fields}
        return lambda t: model_class(ours.ScratchGPTConfig.from_preset(preset, **fields, **ids(t)))

    def encoder(preset: str, model_class: Any, **fields: Any) -> Any:
        fields = {**shape, **fields}
        return lambda t: model_class(ours.ScratchEncoderConfig.from_preset(preset, **fields, **ids(t)))

    def translator(preset: str) -> Any:
        fields = {"encoder_layers": 2, "decoder_layers": 2, "source_lang": "de", "target_lang": "en", **shape}
        model_class, config_class = ours.ScratchSeq2SeqForConditionalGeneration, ours.ScratchSeq2SeqConfig
        return lambda t: model_class(config_class.from_preset(preset, **fields, **ids(t)))

    masked, classifier = ours.ScratchEncoderForMaskedLM, ours.ScratchEncoderForSequenceClassification
    return {
        "gpt2": ("causal", gpt("gpt2")),
        "llama": ("causal", gpt("llama", num_key_value_heads=2)),
        "qwen3": ("causal", gpt("qwen3")),
        "gemma3": ("causal", gpt("gemma3", num_hidden_layers=6, sliding_window=8, head_dim=8)),
        "gpt_neox": ("causal", gpt("gpt_neox")),
        "mixtral": ("causal", gpt("mixtral", num_experts=4, intermediate_size=48)),
        "nanochat": ("causal", gpt("nanochat")),
        "nanochat_ngram": ("causal", gpt("nanochat_ngram", ngram_buckets=1024)),
        "bigram": ("bigram", lambda t: ours.ScratchBigramForCausalLM(ours.ScratchBigramConfig(**ids(t)))),
        "classifier of llama": ("classifier", gpt("llama", ours.ScratchGPTForSequenceClassification)),
        "translator vaswani2017": ("seq2seq", translator("vaswani2017")),
        "translator modern": ("seq2seq", translator("modern")),
        "translator t5": ("seq2seq", translator("t5")),
        "encoder modernbert": ("masked", encoder("modernbert", masked, num_hidden_layers=3, sliding_window=8)),
        "encoder bert": ("masked", encoder("bert", masked, num_hidden_layers=2)),
        "encoder modern": ("masked", encoder("modern", masked, num_hidden_layers=2)),
        "classifier bert": ("classifier", encoder("bert", classifier, num_hidden_layers=2)),
        "classifier fasttext": ("classifier", encoder("fasttext", classifier, ngram_buckets=1024)),
    }


def run_acts(python: Path | str, models: list[Model], *options: str) -> dict[str, dict[str, Any]]:
    """Results of the acts on these models, by name, from processes of this Python: one for those with our code and one
    for the others."""
    results = {}
    for remote_code in (True, False):
        chosen = [model for model in models if model.remote_code == remote_code]
        if not chosen:
            continue
        flags = ["--remote_code", *options] if remote_code else []
        command = [str(python), "-I", str(ACTS), *(f"{model.kind}={model.folder}" for model in chosen), *flags]
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "HF_MODULES_CACHE": cache, "HF_HUB_OFFLINE": "1"}
            result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
        if result.returncode:
            error = {"load": {"error": (result.stderr.strip().splitlines() or ["no reason given"])[-1]}}
            results |= {model.name: error for model in chosen}
        else:
            by_folder = json.loads(result.stdout.splitlines()[-1])
            results |= {model.name: by_folder[str(model.folder)] for model in chosen}
    return results


def failures(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    """The acts that failed or have other results than expected, each with the reason."""
    broken = {act: result["error"] for act, result in expected.items() if "error" in result}
    assert not broken, f"fails in this environment: {broken}"
    if "error" in found["load"]:
        return {"load": found["load"]["error"], **dict.fromkeys(list(expected)[1:], "")}
    reasons = {}
    for act, wanted in expected.items():
        got = found[act]
        if "error" in got:
            reasons[act] = got["error"]
        elif not equal(wanted["result"], got["result"]):
            reasons[act] = "another result than in this environment"
    return reasons


def equal(wanted: Any, found: Any) -> bool:
    """Whether two results are equal, numbers within the tolerance."""
    if isinstance(wanted, float) and isinstance(found, float):
        return abs(wanted - found) < TOLERANCE
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(equal, wanted, found))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return wanted.keys() == found.keys() and all(equal(wanted[key], found[key]) for key in wanted)
    return type(wanted) is type(found) and wanted == found


def all_releases() -> list[str]:
    """The newest patch of each minor release from `OLDEST_NATIVE` on, in the package index, oldest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", "transformers"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    newest: dict[tuple[int, int], tuple[int, int, int]] = {}
    for found in re.findall(r"\b(\d+)\.(\d+)\.(\d+)\b(?=,|$)", listed.split("Available versions:")[1], re.MULTILINE):
        major, minor, patch = (int(part) for part in found)
        newest[major, minor] = max(newest.get((major, minor), (0, 0, 0)), (major, minor, patch))
    return [".".join(map(str, newest[minor])) for minor in sorted(newest) if minor >= numbers(OLDEST_NATIVE)]


def numbers(release: str) -> tuple[int, ...]:
    """A release as numbers, which can be compared."""
    return tuple(map(int, release.split(".")))


def environment(release: str, folder: Path) -> Path:
    """The Python of a virtual environment with this release of transformers, which is made if it does not exist."""
    target = folder / release
    python = target / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = target / "complete"
    if not complete.exists():
        venv.create(target, clear=True)
        site = next(target.rglob("site-packages"))
        (site / "shared.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", f"transformers=={release}"]
        installed = subprocess.run(command, capture_output=True, text=True)
        if installed.returncode:
            raise SystemExit(f"transformers {release} can't be installed:\n{installed.stderr}")
        complete.touch()
    return python


def markdown(table: dict[str, dict[str, dict[str, str]]], counts: dict[str, int], remote_code: dict[str, bool]) -> str:
    """The results as Markdown: a table of the models with our code and one of those in transformers' own class. A row
    is a model in successive releases with the same result."""
    parts = []
    for title, with_code in (("With this package's code", True), ("In transformers' own class", False)):
        parts += [f"## {title}", "", "| model | passed | releases |", "| --- | --- | --- |"]
        reasons: list[str] = []
        for name in (name for name in counts if remote_code[name] == with_code):
            failed = {release: row[name] for release, row in table.items() if name in row}
            passes = {release: counts[name] - len(acts) for release, acts in failed.items()}
            for passed, group in itertools.groupby(passes, passes.__getitem__):
                releases = list(group)
                shown = releases[0] if len(releases) == 1 else f"{releases[0]} to {releases[-1]}"
                parts.append(f"| {name} | {passed}/{counts[name]} | {shown} |")
            for release, acts in failed.items():
                reasons += [f"- {release}, {name}, {act}: {reason}" for act, reason in acts.items() if reason]
        parts += ["", *(["Failed:", "", *reasons, ""] if reasons else [])]
    return "\n".join([*parts, f"Tried: {', '.join(table)}.", ""])


def main() -> None:
    """Run all acts in all releases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", nargs="*", help="releases, such as 5.10.4, 5.10 or newest; default: all")
    parser.add_argument("--models", nargs="*", help="names of models, such as llama; default: all")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="folder of the virtual environments")
    parser.add_argument("--json", type=Path, help="write the failed acts to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    args = parser.parse_args()

    known = all_releases()
    asked = [known[-1] if name == "newest" else name for name in args.releases or known]
    releases = [release for release in known if any(f"{release}.".startswith(f"{name}.") for name in asked)]
    if missing := [name for name in asked if not any(f"{release}.".startswith(f"{name}.") for release in known)]:
        raise SystemExit(f"transformers has no release {', '.join(missing)}: known are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        written = write_models(Path(folder))
        if missing := set(args.models or ()) - {model.name for model in written}:
            raise SystemExit(f"no model {', '.join(sorted(missing))}: known are {', '.join(m.name for m in written)}")
        models = [model for model in written if not args.models or model.name in args.models]
        expected = run_acts(sys.executable, models, "--with_package")
        table: dict[str, dict[str, dict[str, str]]] = {}
        for release in releases:
            possible = [model for model in models if numbers(release) >= numbers(model.since)]
            found = run_acts(environment(release, args.environments), possible)
            table[release] = {name: failures(expected[name], acts) for name, acts in found.items()}
            failed = [
                f"{name}, {act}: {reason}"
                for name, acts in table[release].items()
                for act, reason in acts.items()
                if reason
            ]
            print(f"transformers {release}:", *(failed or ["all acts pass"]), sep="\n  ", flush=True)
    counts = {m.name: len(expected[m.name]) for m in models}
    text = markdown(table, counts, {m.name: m.remote_code for m in models})
    print(text)
    if args.markdown:
        args.markdown.write_text(f"{HEADER.format(torch=torch.__version__, newest=transformers.__version__)}\n{text}")
    if args.json:
        args.json.write_text(json.dumps(table, indent=2))
    raise SystemExit(any(acts for row in table.values() for acts in row.values()))


HEADER = """# Releases of transformers

Acts on a model directory that pass, of all: load by `AutoModel…`, greedy decoding, sampling, beam search, without and
with a static cache, a cache passed under both of its names, a batch with padding, the pipeline, saving and loading
again. An act passes if it gives the tokens and texts that transformers {newest} gives with the package installed, and
the same numbers within 1e-4. Releases before the first one that is listed do not have the class. In transformers 5.0 to
5.2, a `MarianMTModel`'s tokenizer opens only if `sentencepiece` is installed. PyTorch {torch}; written by
`python benchmarks/releases.py --markdown docs/reference/releases.md`.
"""


if __name__ == "__main__":
    main()
