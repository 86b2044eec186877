"""Registration of our classes with transformers' Auto classes and pipelines.

`AUTO_MAP` of each config module maps the names of Auto classes to our classes; checkpoints carry it as `auto_map`.
Registration uses the same table, so that a model opens in the same way with the package and, through the code in the
checkpoint, without it.
"""

import importlib

import transformers

FAMILIES = ("scratch_gpt", "scratch_seq2seq", "scratch_encoder", "scratch_bigram")


def register() -> None:
    """Register our classes with `AutoConfig` and `AutoModel…`, and make `save_pretrained` copy their code."""
    for family in FAMILIES:
        config_module = importlib.import_module(f"scratch_gpt.models.configuration_{family}")
        classes = {}
        for auto_name, reference in config_module.AUTO_MAP.items():
            module_name, class_name = reference.split(".")
            classes[auto_name] = getattr(importlib.import_module(f"scratch_gpt.models.{module_name}"), class_name)
        config_class = classes.pop("AutoConfig")
        config_class.register_for_auto_class()
        transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        for auto_name, model_class in classes.items():
            if hasattr(transformers, auto_name):  # older releases lack some Auto classes
                model_class.register_for_auto_class(auto_name)
                getattr(transformers, auto_name).register(config_class, model_class, exist_ok=True)
    register_pipelines()


def register_pipelines() -> None:
    """Register `pipeline("seq2seq-translation", …)`; transformers does not allow the name "translation"."""
    from transformers.pipelines import PIPELINE_REGISTRY

    from .models.pipeline_scratch_translation import TASK, ScratchTranslationPipeline

    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, ScratchTranslationPipeline, pt_model=transformers.AutoModelForSeq2SeqLM, type="text"
        )
