"""Write a child as a folder that other tools open: weights, code where needed, tokenizer."""

from pathlib import Path

from transformers import PreTrainedModel

from budwood.models.checkpoint import load_generation, load_tokenizer, save_checkpoint

CARD = "README.md"
CERTIFICATE = "certificate.json"


def write_checkpoint(model: PreTrainedModel, teacher_folder: Path, target: Path) -> Path:
    """Write a model with its teacher's tokenizer and generation settings, atomically, and return the folder."""
    if (generation := load_generation(teacher_folder)) is not None:
        model.generation_config = generation
    return save_checkpoint(model, load_tokenizer(teacher_folder), target)
