"""Checkpoint files: durable replacement, the safetensors layout, and nested values as one document with arrays."""
