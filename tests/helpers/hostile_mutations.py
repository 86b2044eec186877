"""Hypothesis strategies for mutations of a run's directory.

A plan is plain JSON, so that one that made a command fail can be stored and repeated. `hostile_apply` applies plans.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from helpers.hostile_fields import ANSI, CODE, ESCAPE, FIELDS, REWARDS, TASKS, VALUES

CHECKPOINTS = ("checkpoints/step-00000001", "checkpoints/step-00000002")

BASE_FILES = [*FIELDS, "model.safetensors", "training_state.safetensors", "README.md", "modeling_scratch_gpt.py"]
BASE_FILES += ["loss.png"]
NEW_NAMES = ["chat_template.jinja", ".metrics.jsonl", ".best.partial", "checkpoints/.step-00000003.partial", "best"]
NEW_NAMES += ["checkpoints/step-00000003", "checkpoints/step-99999999", "checkpoints", "checkpoints/step-00000002"]
NEW_NAMES += ["model.safetensors.index.json", "target_tokenizer", "logs", ".cache", "tokenizer.model", "x.safetensors"]
EXTRA = {
    **dict.fromkeys(("evil.py", "helper.py", "custom_generate/generate.py", "sub/evil.py", "__init__.py"), CODE),
    **dict.fromkeys(("scratch_gpt.py", "torch.py", "json.py", "sitecustomize.py", "transformers.py", "data.py"), CODE),
    **dict.fromkeys(("modeling_scratch_gpt.py", "attention.py", "configuration_scratch_gpt.py"), CODE),
    "custom_generate/requirements.txt": "evil\n",
    **dict.fromkeys(("chat_template.jinja", "chat_templates/x.jinja", "additional_chat_templates/x.jinja"), ESCAPE),
    "adapter_config.json": '{"peft_type": "LORA", "base_model_name_or_path": "@OUTSIDE@/model"}',
    "adapter_config.json ": '{"peft_type": "LORA", "base_model_name_or_path": "a/b", "auto_mapping": {"x": "evil"}}',
    "processor_config.json": '{"auto_map": {"AutoProcessor": "evil.P"}, "processor_class": "evil.P"}',
    "preprocessor_config.json": '{"auto_map": {"AutoImageProcessor": "evil.P"}}',
    "special_tokens_map.json": '{"eos_token": {"__type": "os.system"}, "additional_special_tokens": [[]]}',
    "added_tokens.json": '{"<x>": 4000000000, "<y>": -1, "<z>": "a"}',
    "vocab.json": '{"a": 1e99}',
    "merges.txt": "a b\nc",
    "model.safetensors.index.json": '{"weight_map": {"model.x": "../outside/weights.safetensors", "y": "weights.bin"}}',
    "model.safetensors.index.json ": '{"weight_map": {"model.x": 7}, "metadata": []}',
    "model.safetensors.index.json  ": "[]",
    "README.md": f"---\nlicense: !!python/object/apply:os.system ['touch @MARK@']\n---\n{ANSI}",
    "run.yaml": "a: !!python/object/apply:os.system ['touch @MARK@']\n",
    "run.yaml ": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)),
    "run.yaml  ": "arguments: *missing",
    "run.yaml   ": "? [a]\n: b\n",
    "run.yaml    ": "@DEEP20000@",
    "run.yaml     ": "- 1\n- 2\n",
    "run.yaml      ": "arguments: {? [1]: 2}\nmachine: {processes: 1}\nfacts: {task: language-modeling}\n",
    "metrics.jsonl": '[]\n{"step": {}}\n7\n{"step": 2, "val_loss": "x"}\n',
    "data.parquet": "PAR1",
    "config.json": "[]",
    "config.json ": '{"model_type": "scratch_gpt", "model_type": "gpt2"}',
    "model.safetensors.gz": "\x1f\x8b",
    "tf_model.h5": "x",
    "quantize_config.json": '{"bits": 4}',
}
PICKLES = [
    "pytorch_model.bin",
    "adapter_model.bin",
    "weights.bin",
    "optimizer.pt",
    "training_args.bin",
    "rng_state.pth",
]
PICKLES += ["model.safetensors", "training_state.safetensors", "training_state.pt", "evil.safetensors", "sub/model.bin"]
ODD_NAMES = [
    "a\x1b[31m.py",
    "[/x].py",
    "[red]x.json",
    "model-[red].safetensors",
    "a\nb.md",
    "a" * 250,
    " ",
    "-rf",
    "\u202ex",
]
ODD_NAMES += ["model-\x1b]0;x\x07.safetensors", "a\\..\\b", "%2e%2e", "CON", "\udcff.json", "step-x", "x.safetensors"]
BECOMES = ["folder", "empty", "pipe", "socket", "sparse", "secret", "hard link", "new", "outside", "other run", "loop"]
BECOMES += ["inside", "parent", "/dev/zero", "/dev/full", "/dev/stdin", "gone", "full folder", "unreadable"]
BYTES = ["cut", "double", "flip", "nul", "utf-16", "utf-8-sig", "latin-1", "prefix", "cr", "bzip"]
HEADERS = [
    "0",
    "huge length",
    "negative length",
    "deep",
    "many tensors",
    "long name",
    "unknown type",
    "huge shape",
    "overlap",
    "beyond",
    "integers",
    "not a number",
    "other shapes",
    "metadata",
    "no tensors",
    "strange tensor",
    "not json",
]


def _put(file: str) -> st.SearchStrategy[dict[str, Any]]:
    def with_value(key: str) -> st.SearchStrategy[dict[str, Any]]:
        return FIELDS[file][key].map(lambda value: {"do": "put", "file": file, "key": key, "value": value})

    return st.sampled_from(sorted(FIELDS[file])).flatmap(with_value)


_AT = st.lists(st.integers(0, 60), min_size=1, max_size=6)
_JSON = [name for name in FIELDS if name != "metrics.jsonl"]
_OFTEN = ["config.json", "run.yaml", "tokenizer.json", "tokenizer_config.json"]
# Weight and strategy of each mutation.
_MUTATIONS: list[tuple[int, st.SearchStrategy[dict[str, Any]]]] = [
    (9, st.sampled_from([*FIELDS, *_OFTEN, *_OFTEN]).flatmap(_put)),
    (
        2,
        st.builds(lambda f, at, v: {"do": "set", "file": f, "at": at, "value": v}, st.sampled_from(_JSON), _AT, VALUES),
    ),
    (1, st.builds(lambda f, at: {"do": "delete", "file": f, "at": at}, st.sampled_from(_JSON), _AT)),
    (
        2,
        st.builds(
            lambda f, how, where: {"do": "bytes", "file": f, "how": how, "where": where},
            st.sampled_from(BASE_FILES),
            st.sampled_from(BYTES),
            st.lists(st.floats(0, 1), min_size=1, max_size=3),
        ),
    ),
    (
        4,
        st.builds(
            lambda f, what: {"do": "become", "file": f, "what": what},
            st.sampled_from([*BASE_FILES, *NEW_NAMES]),
            st.sampled_from(BECOMES),
        ),
    ),
    (4, st.sampled_from(list(EXTRA)).map(lambda name: {"do": "write", "file": name})),
    (1, st.sampled_from(PICKLES).map(lambda name: {"do": "pickle", "file": name})),
    (
        1,
        st.builds(
            lambda f, how: {"do": "header", "file": f, "how": how},
            st.sampled_from(["model.safetensors", "training_state.safetensors", "model-00001-of-00002.safetensors"]),
            st.sampled_from(HEADERS),
        ),
    ),
    (1, st.sampled_from(ODD_NAMES).map(lambda name: {"do": "name", "file": name})),
    (
        1,
        st.builds(
            lambda task, name, reward: {"do": "task", "task": task, "name": name, "value": reward},
            st.sampled_from(TASKS),
            st.sampled_from(["reward", "init_from", "dataset", "reference", "source_lang"]),
            st.sampled_from([*REWARDS, "@OUTSIDE@/model", "a/b"]),
        ),
    ),
]
MUTATION = st.sampled_from([kind for often, kind in _MUTATIONS for _ in range(often)]).flatmap(lambda kind: kind)
PLAN = st.fixed_dictionaries(
    {
        "mutations": st.lists(MUTATION, min_size=1, max_size=4),
        "where": st.sampled_from(["root", "checkpoint", "all", "all"]),
        "manifest": st.booleans(),
        "answer": st.booleans(),
        "inside": st.sampled_from([False, False, True]),
    }
)
