"""The formats that models can be exported to, by name."""

from __future__ import annotations

from .ctranslate2 import CTRANSLATE2
from .export import ExportFormat
from .gguf import GGUF
from .native_class import NATIVE
from .onnx import ONNX

FORMATS: dict[str, ExportFormat] = {format.name: format for format in (NATIVE, GGUF, CTRANSLATE2, ONNX)}
