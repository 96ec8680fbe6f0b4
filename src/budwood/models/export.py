"""Write a child as a folder that other tools open: weights, code where needed, tokenizer."""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel

from budwood.models.checkpoint import load_tokenizer, save_checkpoint

CARD = "README.md"
CERTIFICATE = "certificate.json"


def write_checkpoint(model: PreTrainedModel, teacher_folder: Path, target: Path) -> Path:
    """Write a model with its teacher's tokenizer and generation settings, atomically, and return the folder."""
    if (teacher_folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(teacher_folder)
    return save_checkpoint(model, load_tokenizer(teacher_folder), target)
