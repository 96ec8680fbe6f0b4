"""All of the library on a tiny random teacher, in half a minute: `python docs/door.py [FOLDER]`."""

import sys

import budwood

teacher = budwood.TeacherSettings(
    random={"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 6,
            "num_key_value_heads": 3, "head_dim": 16, "max_position_embeddings": 256}
)  # fmt: skip
splits = {"train": 0.4, "calibration": 0.15, "selection": 0.15, "choice": 0.15, "validation": 0.15}
text = budwood.SourceSettings(path=("package://encodings/cp*.py",), splits=splits)
measurement = budwood.MeasurementSettings(
    length=64, calibration=8, elimination=2, selection=4, choice=4, validation=8, heldout=4
)
schedule = budwood.Schedule(tokens=1024, sequence_length=64, global_batch=4, micro_batch=2, num_evaluations=2)
space = budwood.SpaceSettings(layerwise=False, compensation=budwood.Compensation())
losses = {}  # the callback below gets metrics and a step
study = budwood.open_study(
    teacher, {"encodings": text}, folder=(sys.argv[1:] or ["budwood-study"])[0], measurement=measurement,
    engine=budwood.Engine(compile_loss="off"), track=lambda metrics, _: losses.update(metrics),
)  # fmt: skip
print("layers, the first to go first:", study.importance.eliminated)
best = study.select(hidden_size=32, num_hidden_layers=2, intermediate_size=64)
layer = budwood.LayerSelection(layer=0, groups=(0, 2), queries=range(1), pairs=(0, 1, 5), neurons=range(64))
for half in (best, budwood.Selection(hidden=range(32), layers=(layer,))):
    model = study.activate(half, space)  # a torch module
    subnet = study.extract(half, space)  # a folder that plain transformers opens, with its certificate
    print(type(model).__name__, subnet.checkpoint.folder, subnet.certificate.largest_logit_difference)
print(study.plan({"half": 0.5}, space=space, schedule=schedule).groupby("stage")["flops"].sum())
found = study.search({"half": 0.5, "quarter": 0.25}, space=space)
print({name: each.winner.description for name, each in found.items()}, losses)
trained = study.pretrain(found["half"].checkpoint, schedule=schedule)
taught = study.distill(found["half"].checkpoint, schedule=schedule)
print(study.certify(taught, found["half"]).training)  # its folder has a card and a check too
for each in (None, trained.model, taught.model):
    print(study.evaluate(each).perplexity[-1])
