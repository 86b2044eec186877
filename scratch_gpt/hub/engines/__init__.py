"""Exports to the engines that people deploy with: llama.cpp (GGUF), CTranslate2 and ONNX Runtime."""
